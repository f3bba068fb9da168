use super::*;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn keys_are_made_once_and_read_afterwards_with_mode_0600() {
    let dir = crate::testing::TempDir::new();
    let first = Pki::open_or_create(&dir.path().join("pki")).unwrap();
    let admin = first.admin().unwrap();
    let second = Pki::open_or_create(&dir.path().join("pki")).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.service_account_public(), second.service_account_public());
    assert_eq!(admin.cert_pem, second.admin().unwrap().cert_pem);
    for entry in fs::read_dir(dir.path().join("pki")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_file_that_is_no_key_is_an_error_that_names_the_file() {
    let dir = crate::testing::TempDir::new();
    fs::create_dir_all(dir.path().join("pki")).unwrap();
    fs::write(dir.path().join("pki/ca.key"), "not a key").unwrap();
    let error = Pki::open_or_create(&dir.path().join("pki")).unwrap_err();
    assert!(error.to_string().contains("ca.key"), "{error}");
}
