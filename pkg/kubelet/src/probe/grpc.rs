//! The gRPC health protocol, `grpc.health.v1.Health/Check`.
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::{Request, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// SERVING.
const SERVING: i32 = 1;

/// Asks once.
pub(super) async fn check(addr: &str, service: &str, timeout: Duration) -> Result<(), String> {
    let late = || {
        format!("timeout: failed to connect service \"{addr}\" within {}s: context deadline exceeded", timeout.as_secs())
    };
    let ask = async {
        let channel = Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|e| e.to_string())?
            .user_agent("kube-probe/1.37")
            .map_err(|e| e.to_string())?
            .connect()
            .await
            .map_err(|_| late())?;
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|_| late())?;
        let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
        let request = Request::new(HealthCheckRequest {
            service: service.to_owned(),
        });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let answer = grpc.unary(request, path, codec).await;
        match answer {
            Ok(r) if r.get_ref().status == SERVING => Ok(()),
            Ok(r) => Err(format!(
                "service unhealthy (responded with \"{}\")",
                match r.get_ref().status {
                    2 => "NOT_SERVING",
                    3 => "SERVICE_UNKNOWN",
                    _ => "UNKNOWN",
                }
            )),
            Err(e) if e.code() == tonic::Code::Unimplemented => {
                Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_string())
            }
            Err(e) => Err(format!("error: health rpc probe failed: {}", e.message())),
        }
    };
    tokio::time::timeout(timeout, ask).await.unwrap_or_else(|_| Err(late()))
}
