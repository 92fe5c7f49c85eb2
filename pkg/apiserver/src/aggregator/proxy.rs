//! Passing a request on to the server that serves its group version.

use std::sync::Arc;

use http::{Request, header};

use super::{Remote, backend};
use crate::{
    auth::UserInfo,
    core::Core,
    respond::{self, Body, Reply},
    serve::connect,
};

fn unavailable(why: &str) -> Reply {
    respond::text(503, format!("{why}\n"))
}

/// Passes a request on; the user has already been authorized.
pub async fn serve(core: &Arc<Core>, r: &Remote, mut request: Request<Body>, user: &UserInfo) -> Reply {
    if !r.is_available() || r.backend.address(core).is_err() {
        return unavailable("service unavailable");
    }
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let on_client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let (parts, body) = request.into_parts();
    let mut out = Request::new(body);
    *out.method_mut() = parts.method;
    match path.parse() {
        Ok(uri) => *out.uri_mut() = uri,
        Err(e) => return respond::text(400, format!("{e}\n")),
    }
    connect::copy_headers(&parts.headers, out.headers_mut(), upgrade, true);
    backend::identify(out.headers_mut(), user);
    let answer = match r.backend.send(core, out, upgrade).await {
        Ok(a) => a,
        Err(why) => return unavailable(&format!("error trying to reach service: {why}")),
    };
    match connect::relay(answer, on_client, None).await {
        Ok(reply) => reply,
        Err(e) => unavailable(&e.message),
    }
}
