use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pintle-pki-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn keys_are_made_once_and_read_afterwards_with_mode_0600() {
    let dir = Scratch::new();
    let first = Pki::open_or_create(&dir.0.join("pki")).unwrap();
    let admin = first.admin().unwrap();
    let second = Pki::open_or_create(&dir.0.join("pki")).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.service_account_public(), second.service_account_public());
    assert_eq!(admin.cert_pem, second.admin().unwrap().cert_pem);
    for entry in fs::read_dir(dir.0.join("pki")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_file_that_is_no_key_is_an_error_that_names_the_file() {
    let dir = Scratch::new();
    fs::create_dir_all(dir.0.join("pki")).unwrap();
    fs::write(dir.0.join("pki/ca.key"), "not a key").unwrap();
    let error = Pki::open_or_create(&dir.0.join("pki")).unwrap_err();
    assert!(error.to_string().contains("ca.key"), "{error}");
}
