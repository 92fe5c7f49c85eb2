//! What a client is told at the end, on the error stream.

use serde_json::json;

use super::ExecResult;

/// The error stream's content. `json` is for the fourth version of the protocols and later.
pub(super) fn text(result: &ExecResult, json: bool) -> String {
    match (result, json) {
        (ExecResult::Exited(0), false) => String::new(),
        (ExecResult::Exited(0), true) => json!({"metadata": {}, "status": "Success"}).to_string(),
        (ExecResult::Exited(code), _) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            if !json {
                return message;
            }
            json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })
            .to_string()
        }
        (ExecResult::Failed(why), false) => why.clone(),
        (ExecResult::Failed(why), true) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {why}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": why}]},
            "code": 500,
        })
        .to_string(),
    }
}
