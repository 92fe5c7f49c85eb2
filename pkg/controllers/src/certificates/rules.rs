//! What each of the built-in signers signs.

use super::Subject;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Clients that are kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Servers that are kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Whether this is one of them.
pub fn ours(signer: &str) -> bool {
    [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer)
}

fn within(usages: &[String], must: &[&str], may: &[&str]) -> bool {
    must.iter().all(|m| usages.iter().any(|u| u == m))
        && usages
            .iter()
            .all(|u| must.contains(&u.as_str()) || may.contains(&u.as_str()))
}

fn node(s: &Subject) -> Result<(), &'static str> {
    if s.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes");
    }
    if s.common_name
        .strip_prefix("system:node:")
        .is_none_or(str::is_empty)
    {
        return Err("subject common name does not begin with system:node: ");
    }
    Ok(())
}

/// Whether a signer accepts a request; the error says why not.
pub fn check(signer: &str, s: &Subject, usages: &[String]) -> Result<(), &'static str> {
    match signer {
        CLIENT => {
            let may = ["digital signature", "key encipherment"];
            if !within(usages, &["client auth"], &may) {
                return Err("usages did not match");
            }
            Ok(())
        }
        KUBELET_CLIENT => {
            node(s)?;
            if !s.dns_names.is_empty() {
                return Err("DNS subjectAltNames are not allowed");
            }
            if !s.addresses.is_empty() {
                return Err("IP subjectAltNames are not allowed");
            }
            if s.other_names > 0 {
                return Err("URI and Email subjectAltNames are not allowed");
            }
            let must = ["client auth", "digital signature"];
            if !within(usages, &must, &["key encipherment"]) {
                return Err("usages did not match");
            }
            Ok(())
        }
        KUBELET_SERVING => {
            node(s)?;
            if s.dns_names.is_empty() && s.addresses.is_empty() {
                return Err("DNS or IP subjectAltName is required");
            }
            if s.other_names > 0 {
                return Err("URI and Email subjectAltNames are not allowed");
            }
            let must = ["server auth", "digital signature"];
            if !within(usages, &must, &["key encipherment"]) {
                return Err("usages did not match");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers() {
        let usages = |l: &[&str]| l.iter().map(|u| (*u).to_owned()).collect::<Vec<_>>();
        let client = usages(&["client auth", "digital signature"]);
        let serving = usages(&["server auth", "digital signature", "key encipherment"]);
        let mut s = Subject {
            common_name: "system:node:n1".into(),
            organizations: vec!["system:nodes".into()],
            ..Subject::default()
        };
        assert_eq!(check(KUBELET_CLIENT, &s, &client), Ok(()));
        assert_eq!(
            check(KUBELET_CLIENT, &s, &serving),
            Err("usages did not match")
        );
        assert_eq!(
            check(KUBELET_SERVING, &s, &serving),
            Err("DNS or IP subjectAltName is required")
        );
        s.addresses = vec![[10, 0, 0, 1].into()];
        assert_eq!(check(KUBELET_SERVING, &s, &serving), Ok(()));
        assert!(check(KUBELET_CLIENT, &s, &client).is_err());
        s.organizations.push("system:masters".into());
        assert!(check(KUBELET_SERVING, &s, &serving).is_err());
        assert_eq!(check(CLIENT, &s, &client), Ok(()));
        assert!(ours(LEGACY) && !ours("example.org/other"));
    }
}
