use std::process::Command;

use serde_json::json;

use super::{Error, Signer};

fn openssl(arguments: &[&str]) -> String {
    let out = Command::new("openssl").args(arguments).output().expect("openssl runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("PEM")
}

#[test]
fn keys_in_every_form_that_openssl_writes_sign_and_verify() {
    for (arguments, alg) in [
        (vec!["genrsa", "2048"], "RS256"),
        (vec!["genrsa", "-traditional", "2048"], "RS256"),
        (vec!["ecparam", "-name", "prime256v1", "-genkey"], "ES256"),
        (vec!["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "ES384"),
        (vec!["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "ES256"),
    ] {
        let signer = Signer::new(&openssl(&arguments)).expect(alg);
        assert_eq!(signer.algorithms(), [alg]);
        let token = signer.sign(&json!({"sub": "x", "exp": 100})).expect("signed");
        assert_eq!(signer.verify(&token, 99).expect(alg)["sub"], "x");
        assert_eq!(signer.verify(&token, 100), Err(Error::Expired));
        let forged = token.replacen('.', ".A", 1);
        assert_eq!(signer.verify(&forged, 99), Err(Error::Invalid));
    }
}

#[test]
fn tokens_of_a_key_that_no_longer_signs_are_good_while_it_is_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    let old_key = openssl(&["genrsa", "2048"]);
    let path = dir.path().join("old.key");
    std::fs::write(&path, &old_key).expect("written");
    let public = openssl(&["rsa", "-in", path.to_str().expect("path"), "-pubout"]);
    let token = Signer::new(&old_key).expect("old").sign(&json!({"sub": "x"})).expect("signed");
    let mut now = Signer::new(&openssl(&["ecparam", "-name", "prime256v1", "-genkey"])).expect("new");
    assert_eq!(now.verify(&token, 0), Err(Error::Invalid));
    now.trust(&public).expect("trusted");
    assert!(now.verify(&token, 0).is_ok());
    assert_eq!(now.algorithms(), ["ES256", "RS256"]);
    now.trust(&old_key).expect("the same key");
    assert_eq!(now.jwks()["keys"].as_array().map(Vec::len), Some(2));
    assert!(now.trust("nothing").is_err());
}
