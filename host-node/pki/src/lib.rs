//! The cluster's keys: made once at first start, kept under `<data>/pki`, read at every later one.
//!
//! It issues; it does not authenticate (that is `authn`). What holds: a private key is only ever on disk with mode
//! 0600, in a directory of mode 0700; a file appears whole or not at all; an existing key is never made anew, because
//! certificates and tokens out there depend on it.

pub mod anyone;

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

/// How long the cluster CA lives.
const CA_LIFETIME_DAYS: u64 = 3650;
/// How long a certificate that the CA issues lives.
const LEAF_LIFETIME_DAYS: u64 = 365;
/// Certificates begin this long before now, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Why key material could not be made, read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is not {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        what: &'static str,
    },
    /// A certificate or key could not be made.
    #[error("making a certificate")]
    Certificate(#[from] rcgen::Error),
}

type Result<T> = std::result::Result<T, PkiError>;

/// Where a machine's credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCredentials {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Issue a certificate for the machine `node` from the keys in `pki_dir`, as `node.crt` and `node.key` in `state_dir`. What is there
/// already and has not nearly expired is kept.
///
/// # Errors
/// No keys there, or files that cannot be read or written.
pub fn issue_node_credentials(pki_dir: &Path, node: &str, state_dir: &Path) -> Result<NodeCredentials> {
    let pki = Pki::open_or_create(pki_dir)?;
    kept(state_dir, "node", &pki.ca_pem, || pki.issue_node_cert(node))?;
    Ok(NodeCredentials { certificate: state_dir.join("node.crt"), key: state_dir.join("node.key") })
}

/// A certificate with its key and the CA to trust, all PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: String,
    /// The cluster CA's certificate.
    pub ca_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// The cluster's key material.
pub struct Pki {
    dir: PathBuf,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    service_account: KeyPair,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The public half of the service account key, as a JSON web key needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Key id: base64url of SHA-256 of the SubjectPublicKeyInfo, as upstream makes it.
    pub kid: String,
    /// P-256 x coordinate, base64url.
    pub x: String,
    /// P-256 y coordinate, base64url.
    pub y: String,
}

impl Pki {
    /// Open the directory of keys (`<data>/pki`), making what is not there yet.
    ///
    /// # Errors
    /// The directory cannot be written, or a file in it is not what it should be.
    pub fn open_or_create(dir: &Path) -> Result<Pki> {
        let dir = dir.to_owned();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| PkiError::File { path: dir.clone(), source })?;

        let ca_key = load_or_make_key(&dir.join("ca.key"))?;
        let ca_path = dir.join("ca.crt");
        let ca_pem = match read(&ca_path)? {
            Some(pem) => pem,
            None => {
                let pem = ca_params()?.self_signed(&ca_key)?.pem();
                write_private(&ca_path, &pem)?;
                pem
            }
        };
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| PkiError::Malformed { path: ca_path, what: "a PEM certificate" })?;
        let issuer = Issuer::from_ca_cert_der(&ca_der, ca_key)?;
        let service_account = load_or_make_key(&dir.join("sa.key"))?;
        Ok(Pki { dir, ca_pem, ca_der, issuer, service_account })
    }

    /// The cluster CA's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The cluster CA's certificate, DER.
    #[must_use]
    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.ca_der.clone()
    }

    /// A client certificate for a machine: CN `system:node:<name>`, O `system:nodes`.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn issue_node_cert(&self, node_name: &str) -> Result<Issued> {
        self.issue_client_cert(&format!("system:node:{node_name}"), &["system:nodes"])
    }

    /// A client certificate for a user and its groups. Nothing is written to disk.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn issue_client_cert(&self, user: &str, groups: &[&str]) -> Result<Issued> {
        let mut params = leaf_params(user, ExtendedKeyUsagePurpose::ClientAuth)?;
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.issue(params)
    }

    /// The certificate of `admin` (O `system:masters`), made at first use and kept.
    ///
    /// # Errors
    /// The certificate cannot be made or kept.
    pub fn admin(&self) -> Result<Issued> {
        kept(&self.dir, "admin", &self.ca_pem, || self.issue_client_cert("kubernetes-admin", &["system:masters"]))
    }

    /// The server's certificate chain and key for these names, made anew at each start: names change, and it is cheap.
    ///
    /// # Errors
    /// A name is not a DNS name, or the certificate cannot be made.
    pub fn server(&self, names: &[String]) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let mut params = leaf_params("kube-apiserver", ExtendedKeyUsagePurpose::ServerAuth)?;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.clone().try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((vec![cert.der().clone(), self.ca_der()], key))
    }

    /// The service account signing key, PKCS#8 DER (ECDSA P-256).
    #[must_use]
    pub fn service_account_key(&self) -> &[u8] {
        self.service_account.serialized_der()
    }

    /// The service account key's public half: what verifies tokens and what `/openid/v1/jwks` shows.
    #[must_use]
    pub fn service_account_public(&self) -> PublicKey {
        use rcgen::PublicKeyData as _;
        let point = self.service_account.public_key_raw();
        let spki = self.service_account.subject_public_key_info();
        // An uncompressed P-256 point: 0x04, x, y.
        let coordinates = point.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        PublicKey { kid: URL_SAFE_NO_PAD.encode(Sha256::digest(spki)), x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) }
    }

    /// Write a kubeconfig with the admin's certificate embedded, mode 0600.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, server_url: &str) -> Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| PkiError::File { path: parent.into(), source })?;
        }
        write_private(path, &kubeconfig(&self.admin()?, server_url))
    }

    fn issue(&self, params: CertificateParams) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem(), ca_pem: self.ca_pem.clone() })
    }
}

/// Read `<name>.crt` and `<name>.key`, or make and keep them.
fn kept(dir: &Path, name: &str, ca_pem: &str, make: impl FnOnce() -> Result<Issued>) -> Result<Issued> {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(cert_pem), Some(key_pem)) = (read(&cert)?, read(&key)?)
        && !expires_soon(&cert_pem)
    {
        return Ok(Issued { cert_pem, key_pem, ca_pem: ca_pem.to_owned() });
    }
    let issued = make()?;
    write_private(&key, &issued.key_pem)?;
    write_private(&cert, &issued.cert_pem)?;
    Ok(issued)
}

/// A kubeconfig in text.
fn kubeconfig(admin: &Issued, server_url: &str) -> String {
    let (ca, cert, key) = (STANDARD.encode(&admin.ca_pem), STANDARD.encode(&admin.cert_pem), STANDARD.encode(&admin.key_pem));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: pintle\n  cluster:\n    server: {server_url}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\ncontexts:\n- name: kubernetes-admin@pintle\n  context:\n    cluster: pintle\n    \
         user: kubernetes-admin\ncurrent-context: kubernetes-admin@pintle\npreferences: {{}}\n"
    )
}

/// Less than a tenth of a leaf's life is left (or it cannot be read).
fn expires_soon(cert_pem: &str) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(cert_pem.as_bytes()) else { return true };
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else { return true };
    let left = cert.validity().time_to_expiration().map_or(0, |left| left.whole_seconds());
    left < (LEAF_LIFETIME_DAYS * 86_400 / 10) as i64
}

fn ca_params() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = named("pintle-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, CA_LIFETIME_DAYS);
    Ok(params)
}

fn leaf_params(common_name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = named(common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_LIFETIME_DAYS);
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn valid_for(params: &mut CertificateParams, days: u64) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + Duration::from_secs(days * 86_400)).into();
}

fn load_or_make_key(path: &Path) -> Result<KeyPair> {
    if let Some(pem) = read(path)? {
        return KeyPair::from_pem(&pem).map_err(|_| PkiError::Malformed { path: path.into(), what: "a PKCS#8 private key" });
    }
    let key = KeyPair::generate()?;
    write_private(path, &key.serialize_pem())?;
    Ok(key)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.into(), source }),
    }
}

/// Write a file of mode 0600 that appears whole: to a sibling, synced, renamed.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let failed = |source| PkiError::File { path: path.into(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let sibling = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&sibling).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&sibling, path).map_err(failed)
}

#[cfg(test)]
mod tests;
