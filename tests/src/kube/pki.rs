//! What a cluster's certificates look like: one CA, the API server, and clients by name and group.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A certificate authority, with everything that it signed in one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pair: Pair,
}

impl Authority {
    /// A new key and a certificate for it, in `<folder>/ca.crt` and `ca.key`.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
        let mut params = params(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let pair = write(folder, "ca", &pem, &key)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            issuer: Issuer::new(params, key),
            pair,
        })
    }

    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// For a server of these names and addresses.
    pub fn server(&self, name: &str, dns: &[&str], ips: &[IpAddr]) -> Result<Pair> {
        let mut params = params(name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for dns in dns {
            params
                .subject_alt_names
                .push(SanType::DnsName((*dns).try_into()?));
        }
        params
            .subject_alt_names
            .extend(ips.iter().copied().map(SanType::IpAddress));
        self.sign(name, params)
    }

    /// For a client: to Kubernetes, `user` in `group`. The files are called like the user.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Pair> {
        let mut params = params(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, params)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        write(&self.folder, name, &pem, &key)
    }
}

/// A subject without the name that rcgen would give it.
fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params
}

/// A key that signs tokens, in `path`, and the public one that they are checked with, in the same with `.pub`.
pub fn signing_key(path: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let public = path.with_extension("pub");
    for (path, pem) in [(path, key.serialize_pem()), (&public, key.public_key_pem())] {
        fs::write(path, pem).with_context(|| format!("write `{}`", path.display()))?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, cert: &str, key: &KeyPair) -> Result<Pair> {
    let name = name.replace([':', '/'], "-");
    let pair = Pair {
        cert: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
    };
    for (path, pem) in [(&pair.cert, cert), (&pair.key, &key.serialize_pem())] {
        fs::write(path, pem).with_context(|| format!("write `{}`", path.display()))?;
    }
    Ok(pair)
}
