use super::*;
use crate::Pki;
use rcgen::{CertificateParams, DistinguishedName, DnType};

fn request(organizations: &[&str]) -> String {
    let key = KeyPair::generate().unwrap();
    let mut p = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    p.distinguished_name = DistinguishedName::new();
    for o in organizations {
        p.distinguished_name.push(DnType::OrganizationName, *o);
    }
    p.distinguished_name
        .push(DnType::CommonName, "system:node:n1");
    p.serialize_request(&key).unwrap().pem().unwrap()
}

#[test]
fn read_and_signed() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let ca = pki.authority("ca", "kubernetes").unwrap();
    let key = std::fs::read_to_string(pki.path("ca.key")).unwrap();
    let signer = Signer::new(ca.certificate(), &key).unwrap();
    let pem = request(&["system:nodes"]);
    let said = Request::parse(&pem).unwrap();
    assert_eq!(said.common_name, "system:node:n1");
    assert_eq!(said.organizations, ["system:nodes"]);
    assert_eq!(said.dns_names, ["n1"]);
    let usages = ["client auth".to_owned(), "digital signature".to_owned()];
    let signed = signer.sign(&pem, &usages, 3600).unwrap();
    let (_, parsed) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
    let certificate = parsed.parse_x509().unwrap();
    let (_, ca) = x509_parser::pem::parse_x509_pem(ca.certificate().as_bytes()).unwrap();
    let ca = ca.parse_x509().unwrap();
    certificate.verify_signature(Some(ca.public_key())).unwrap();
    let eku = certificate.extended_key_usage().unwrap().unwrap();
    assert!(eku.value.client_auth && !eku.value.server_auth);
    let lasts = certificate.validity().not_after.timestamp()
        - certificate.validity().not_before.timestamp();
    assert_eq!(lasts, 3600 + SKEW.whole_seconds());
    assert!(matches!(
        signer.sign(&pem, &["any".to_owned()], 3600),
        Err(RequestError::Usage(u)) if u == "any"
    ));
    assert!(matches!(Request::parse("x"), Err(RequestError::Malformed)));
}
