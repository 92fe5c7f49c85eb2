//! Certificates: who asks, and who may approve, sign and attest for a signer.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_registry::{ApiError, FieldError, Object};
use serde_json::{Value, json};

use super::{Attrs, Operation};
use crate::{auth::UserInfo, authz::Attributes};

const GROUP: &str = "certificates.k8s.io";

/// Puts the user who asks into a new request, whatever it says itself.
pub(super) fn requester(a: &Attrs<'_>, obj: &mut Value) {
    if !a.creates(GROUP, "certificatesigningrequests") {
        return;
    }
    for f in ["username", "uid", "groups", "extra"] {
        obj.take_at(&["spec", f]);
    }
    let UserInfo { name, uid, groups, extra } = a.user;
    obj.set_at(&["spec", "username"], json!(name));
    if !uid.is_empty() {
        obj.set_at(&["spec", "uid"], json!(uid));
    }
    if !groups.is_empty() {
        obj.set_at(&["spec", "groups"], json!(groups));
    }
    if !extra.is_empty() {
        obj.set_at(&["spec", "extra"], json!(extra));
    }
}

/// Whether the user may do that for a signer, or for all of its domain.
fn may(a: &Attrs<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or("");
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let wanted = Attributes { verb: verb.into(), resource_request: true, group: GROUP.into(), resource: "signers".into(), name, ..Attributes::default() };
        a.core.authorizer.allows(a.user, &wanted).0
    })
}

/// The PEM of a request.
fn request(obj: &Value) -> Result<knarr_pki::Request, String> {
    let bytes = STANDARD.decode(obj.str_at(&["spec", "request"])).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    if !text.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    }
    knarr_pki::Request::parse(&text).map_err(|e| e.to_string())
}

/// NodeRestriction's part: a kubelet asks for its own certificates.
pub(super) fn of_node(a: &Attrs<'_>, obj: &Value, node: &str) -> Result<(), ApiError> {
    let signer = obj.str_at(&["spec", "signerName"]);
    if !a.creates(GROUP, "certificatesigningrequests") || !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let r = request(obj).map_err(|why| a.forbidden(&format!("unable to parse csr: {why}")))?;
    if r.common_name != format!("system:node:{node}") {
        return Err(a.forbidden(&format!("can only create a node CSR with CN=system:node:{node}")));
    }
    Ok(())
}

/// CertificateApproval, CertificateSigning, CertificateSubjectRestriction and
/// ClusterTrustBundleAttest.
///
/// # Errors
/// 403 for what the user may not do, 422 for a request that cannot be read.
pub(super) fn validate(a: &Attrs<'_>, obj: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if a.resource.group != GROUP || obj.is_null() {
        return Ok(());
    }
    if a.is(GROUP, "clustertrustbundles") {
        if !a.on("ClusterTrustBundleAttest") {
            return Ok(());
        }
        let signer = obj.str_at(&["spec", "signerName"]);
        let touched = old.is_none_or(|o| o.get("spec") != obj.get("spec"));
        if !signer.is_empty() && touched && !may(a, "attest", signer) {
            return Err(a.forbidden(&format!("user not permitted to attest for signerName {signer:?}")));
        }
        return Ok(());
    }
    if !a.is(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    let signer = old.unwrap_or(obj).str_at(&["spec", "signerName"]);
    match (a.subresource, a.operation) {
        ("approval", Operation::Update) if a.on("CertificateApproval") && !may(a, "approve", signer) => Err(a.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}"))),
        ("status", Operation::Update) if a.on("CertificateSigning") => {
            let differs = |f: &str| old.is_some_and(|o| o.at(&["status", f]) != obj.at(&["status", f]));
            if (differs("certificate") || differs("conditions")) && !may(a, "sign", signer) {
                return Err(a.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")));
            }
            Ok(())
        }
        ("", Operation::Create) if a.on("CertificateSubjectRestriction") => {
            let r = request(obj).map_err(|why| {
                let field = FieldError::invalid("spec.request", obj.str_at(&["spec", "request"]), why);
                ApiError::invalid(GROUP, "CertificateSigningRequest", obj.name(), &[field])
            })?;
            if signer == "kubernetes.io/kube-apiserver-client" && r.organizations.iter().any(|o| o == "system:masters") {
                return Err(a.forbidden("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
