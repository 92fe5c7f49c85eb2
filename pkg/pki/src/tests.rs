//! What is good is kept, what is not is issued anew.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn server(names: &[&str]) -> Leaf {
    Leaf {
        file: "apiserver".into(),
        common_name: "kube-apiserver".into(),
        dns_names: names.iter().map(|&n| n.to_owned()).collect(),
        addresses: vec!["10.96.0.1".parse().unwrap()],
        server: true,
        ..Leaf::default()
    }
}

#[test]
fn a_good_leaf_is_kept_and_a_wanting_one_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path().join("pki")).unwrap();
    let ca = pki.authority("ca", "kubernetes").unwrap();
    let first = pki.leaf(&ca, &server(&["localhost"])).unwrap();
    let again = pki.authority("ca", "kubernetes").unwrap();
    assert_eq!(ca.certificate(), again.certificate());
    let kept = pki.leaf(&again, &server(&["localhost"])).unwrap();
    assert_eq!(first.certificate, kept.certificate);
    let wider = pki.leaf(&ca, &server(&["localhost", "kubernetes.default.svc"])).unwrap();
    assert_ne!(first.certificate, wider.certificate);
    let other = pki.authority("front-proxy-ca", "front-proxy").unwrap();
    let moved = pki.leaf(&other, &server(&["localhost"])).unwrap();
    assert_ne!(wider.certificate, moved.certificate);
}

#[test]
fn keys_are_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path().join("pki")).unwrap();
    let ca = pki.authority("ca", "kubernetes").unwrap();
    pki.leaf(&ca, &server(&[])).unwrap();
    pki.service_account_key().unwrap();
    for key in ["ca.key", "apiserver.key", "sa.key"] {
        let mode = fs::metadata(pki.path(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn half_an_authority_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    pki.authority("ca", "kubernetes").unwrap();
    fs::remove_file(pki.path("ca.key")).unwrap();
    let error = pki.authority("ca", "kubernetes").err().unwrap().to_string();
    assert!(error.contains("ca.key: is missing"), "{error}");
}

#[test]
fn a_client_certificate_names_user_and_groups() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let ca = pki.authority("ca", "kubernetes").unwrap();
    let leaf = Leaf {
        file: "admin".into(),
        common_name: "kubernetes-admin".into(),
        organizations: vec!["system:masters".into()],
        client: true,
        ..Leaf::default()
    };
    let pair = pki.leaf(&ca, &leaf).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).unwrap();
    let subject = pem.parse_x509().unwrap().subject().to_string();
    assert!(subject.contains("O=system:masters") && subject.contains("CN=kubernetes-admin"));
}
