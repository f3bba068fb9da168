//! The HTTP proxy of this node: the cluster's RouteTables in, requests to the endpoints of Services out.
//!
//! `model` is what is read, `table` what it says together (pure), `path` and `headers` the rules of HTTP that matter here (pure), `backend` who
//! stands behind a Service and the connections to them, `forward` one request, `server` ports and connections. This file follows and acts.
//!
//! The tables are neutral: a module makes them out of Ingresses, another may out of something else. What this file knows of Services is what
//! the Service proxy's catalog knows. A table that changes reaches the next request; requests in flight end on the old one; no connection is cut.
//! Certificates come from the Secrets that tables name, and are read again when the table names another revision.

pub mod backend;
pub mod forward;
pub mod headers;
pub mod model;
pub mod path;
pub mod server;
pub mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::follow::{Followed, Key};
use crate::link::{Kernel, Reference, Row};
use crate::net::nft::Family;
use crate::node::Node;
use crate::service::Catalog;
use crate::service::frontends::endpoints;
use backend::{Behind, Service, Speech};
use model::{Certificate, RouteTable};
use server::{Server, State};
use table::{Programme, Target};

/// Wait before certificates are asked for again that could not be read.
const RETRY: Duration = Duration::from_secs(5);

/// What the ingress is told.
pub enum Told {
    /// A row of a table.
    Table(Row),
    /// What stands behind these Services may have changed.
    Services(BTreeSet<Key>),
}

/// What is known, and the proxy's threads.
#[derive(Default)]
struct Ingress {
    tables: Followed<RouteTable>,
    services: BTreeMap<Target, Arc<Service>>,
    programme: Arc<Programme>,
    certificates: HashMap<Certificate, Arc<CertifiedKey>>,
    server: Server,
}

/// Follows for ever.
pub async fn run(node: Rc<Node>, mut told: mpsc::UnboundedReceiver<Told>) {
    let mut ingress = Ingress::default();
    let ports = Arc::new(node.options.ingress_ports().unwrap_or_default());
    let (mut changed, mut retry) = (false, false);
    loop {
        let first = match retry {
            false => told.recv().await.map(Some),
            true => tokio::time::timeout(RETRY, told.recv()).await.map_or(Some(None), |told| told.map(Some)),
        };
        let Some(mut next) = first else { return };
        let mut touched = BTreeSet::new();
        while let Some(news) = next {
            match news {
                Told::Table(row) => {
                    let before = ingress.tables.is_synced();
                    ingress.tables.take(row, |_, _| changed = true);
                    changed |= !before && ingress.tables.is_synced();
                }
                Told::Services(keys) => touched.extend(keys),
            }
            next = told.try_recv().ok();
        }
        if !ingress.tables.is_synced() || !node.proxy.catalog.borrow().is_synced() {
            continue;
        }
        if changed {
            ingress.compile(&node.proxy.catalog.borrow());
        } else {
            ingress.refresh(&touched, &node.proxy.catalog.borrow());
        }
        if changed || retry {
            ingress.publish(&ports);
            retry = ingress.read_certificates(&node.kernel).await;
            ingress.publish(&ports);
        }
        changed = false;
    }
}

impl Ingress {
    /// Reads all tables anew.
    fn compile(&mut self, catalog: &Catalog) {
        let mut services = BTreeMap::new();
        let programme = Programme::of(self.tables.iter(), |target| {
            let known = self.services.get(&target).cloned();
            services.entry(target).or_insert_with(|| known.unwrap_or_default()).clone()
        });
        self.services = services;
        self.programme = Arc::new(programme);
        for (target, service) in &self.services {
            service.set(behind(target, catalog));
        }
    }

    /// Says anew who stands behind the Services that were touched.
    fn refresh(&self, touched: &BTreeSet<Key>, catalog: &Catalog) {
        for (target, service) in self.services.iter().filter(|(target, _)| touched.contains(&target.service)) {
            service.set(behind(target, catalog));
        }
    }

    fn wanted(&self) -> BTreeSet<Certificate> {
        self.programme.doors.values().flat_map(|port| &port.certificates).map(|(_, certificate)| certificate.clone()).collect()
    }

    fn publish(&mut self, ports: &Arc<BTreeMap<u16, u16>>) {
        // Until a new revision is read, the one before serves.
        let same = |a: &Certificate, b: &Certificate| (&a.namespace, &a.name) == (&b.namespace, &b.name);
        let of = |wanted: &Certificate| {
            let other = || self.certificates.iter().find(|(known, _)| same(known, wanted)).map(|(_, key)| key);
            self.certificates.get(wanted).or_else(other).cloned()
        };
        let certificates = self.wanted().into_iter().filter_map(|wanted| of(&wanted).map(|key| (wanted, key))).collect();
        let state = State { programme: self.programme.clone(), certificates: Arc::new(certificates), ports: ports.clone() };
        if let Err(error) = self.server.set(state) {
            tracing::error!(error = Error::chain(&error), "the ingress does not run");
        }
    }

    /// Reads the certificates that are not known yet and forgets those that are not wanted; whether to come back.
    async fn read_certificates(&mut self, kernel: &Kernel) -> bool {
        let wanted = self.wanted();
        let mut again = false;
        for certificate in &wanted {
            if self.certificates.contains_key(certificate) {
                continue;
            }
            match read(kernel, certificate).await {
                Ok(key) => drop(self.certificates.insert(certificate.clone(), Arc::new(key))),
                Err(error) => {
                    again |= matches!(error, Error::Away | Error::Link { .. } | Error::Refused { .. });
                    let Certificate { namespace, name, .. } = certificate;
                    tracing::warn!(namespace, name, error = Error::chain(&error), "a certificate of the ingress cannot be used");
                }
            }
        }
        let replaced = |known: &Certificate| {
            let mut same = wanted.iter().filter(|other| (&other.namespace, &other.name) == (&known.namespace, &known.name));
            same.all(|other| self.certificates.contains_key(other))
        };
        let gone: Vec<Certificate> = self.certificates.keys().filter(|known| !wanted.contains(known) && replaced(known)).cloned().collect();
        for known in gone {
            self.certificates.remove(&known);
        }
        again
    }
}

/// Who stands behind a port of a Service.
fn behind(target: &Target, catalog: &Catalog) -> Behind {
    let wanted = |port: &&crate::service::model::ServicePort| match target.port {
        0 => port.name == target.port_name,
        number => port.port == number,
    };
    let service = catalog.services.get(&target.service);
    let Some(port) = service.and_then(|service| service.spec.ports.iter().find(wanted)) else { return Behind::default() };
    let speech = if port.app_protocol == "kubernetes.io/h2c" { Speech::H2c } else { Speech::Http1 };
    // By the Service's own family, or the other one where nobody is reached by that.
    let slices = catalog.slices_of(&target.service);
    let own = service.and_then(|service| service.spec.cluster_ips.first()?.parse().ok()).map_or(Family::V4, Family::of);
    let mut families = Family::BOTH;
    families.sort_by_key(|family| *family != own);
    let found = families.into_iter().map(|family| endpoints(port, family, &slices, |_| true)).find(|all| !all.is_empty());
    Behind { endpoints: found.unwrap_or_default(), speech }
}

async fn read(kernel: &Kernel, certificate: &Certificate) -> Result<CertifiedKey> {
    let bytes = kernel.get(&Reference::core("secrets", &certificate.namespace, &certificate.name)).await?;
    let what = || format!("Secret {}/{}", certificate.namespace, certificate.name);
    let secret: Secret = serde_json::from_slice(&bytes).map_err(|source| Error::Malformed { what: what(), source })?;
    let data = secret.data.unwrap_or_default();
    let file = |key: &str| data.get(key).map(|bytes| &bytes.0[..]).ok_or_else(|| Error::invalid(what(), format!("no {key}")));
    certified(file("tls.crt")?, file("tls.key")?).map_err(|reason| Error::invalid(what(), reason))
}

/// A certificate chain and its key, from PEM.
pub fn certified(chain: &[u8], key: &[u8]) -> std::result::Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain).collect::<std::result::Result<_, _>>().map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key holds no private key".to_owned())?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).map_err(|error| error.to_string())
}
