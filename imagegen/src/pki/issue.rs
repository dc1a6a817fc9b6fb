//! Issues keys and certificates from specifications. The only user of rcgen for certificates.
//!
//! [`super`] decides the names, [`store`](super::store) keeps the files.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData as _, RsaKeySize, SanType,
};
use sha2::{Digest as _, Sha256};
use time::{Date, Duration, OffsetDateTime};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use build_tools::debian_tree::SOURCE_DATE_EPOCH;

use super::rotation::Clients;
use super::{AuthorityRow, Issuer, Specification, Usage};

/// NotBefore of all certificates, early enough for a machine whose clock is at its firmware's date.
pub const NOT_BEFORE: Date = time::macros::date!(2000 - 01 - 01);

/// Days that a CA lives, whatever the validity of its certificates: nothing renews a CA, and
/// certificates end with it.
pub const AUTHORITY_DAYS: u32 = 36_525;

/// Fails if the clock shows a day before this program was made: certificates would end too early,
/// and one that ended would pass.
pub fn check_clock(today: Date) -> Result<()> {
    let pinned = i64::try_from(SOURCE_DATE_EPOCH).unwrap_or_default();
    let made = OffsetDateTime::from_unix_timestamp(pinned)
        .context("reading the date of this program")?
        .date();
    ensure!(
        today >= made,
        "the clock of this machine says {today}, but this program was made after {made}; set the \
         clock"
    );
    Ok(())
}

/// A private key in PEM, which only [`expose`](Self::expose) returns.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretPem(String);

impl SecretPem {
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(..)")
    }
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub certificate: String,
    pub key: SecretPem,
}

/// A CA with its key.
#[derive(Debug)]
pub struct Authority {
    pub certificate: String,
    pub key: SecretPem,
    issuer: rcgen::Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

impl Authority {
    /// A new CA, valid from [`NOT_BEFORE`] until [`AUTHORITY_DAYS`] after `today`.
    pub fn create(row: &AuthorityRow, today: Date) -> Result<Self> {
        Self::named(row.common_name, today)
    }

    /// A new CA with this common name.
    pub fn named(common_name: &str, today: Date) -> Result<Self> {
        let doing = || format!("creating the CA `{common_name}`");
        let not_after = end(today, AUTHORITY_DAYS)?;
        let mut params = base(common_name, None, not_after);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let key = KeyPair::generate().with_context(doing)?;
        let certificate = params.self_signed(&key).with_context(doing)?.pem();
        let pem = SecretPem::new(key.serialize_pem());
        Ok(Self {
            certificate,
            key: pem,
            issuer: rcgen::Issuer::new(params, key),
            not_after,
        })
    }

    /// A CA of an earlier run or of the user: RSA or EC; PKCS#8, PKCS#1 or SEC1. A pair that does
    /// not match, may not sign, has expired or is not valid yet is an error.
    pub fn load(certificate: &str, key: &str, today: Date) -> Result<Self> {
        let pair = KeyPair::from_pem(key)
            .map_err(|_| anyhow::anyhow!("the key is not a private key in PEM"))?;
        let der = certificate_der(certificate)?;
        let (rest, x509) =
            X509Certificate::from_der(&der).context("the certificate cannot be read")?;
        ensure!(rest.is_empty(), "the certificate has trailing bytes");
        ensure!(
            x509.public_key().raw == pair.subject_public_key_info(),
            "the certificate and the key do not belong together"
        );
        ensure!(
            x509.is_ca(),
            "the certificate is not that of a CA (basicConstraints)"
        );
        if let Ok(Some(usage)) = x509.key_usage() {
            ensure!(
                usage.value.key_cert_sign(),
                "the certificate may not sign others (keyUsage)"
            );
        }
        let not_before = x509.validity().not_before.to_datetime();
        let not_after = x509.validity().not_after.to_datetime();
        ensure!(
            not_before < not_after,
            "the CA ends on {}, before it begins on {}",
            not_after.date(),
            not_before.date()
        );
        ensure!(
            not_before.date() <= today,
            "the CA begins on {}, but today is {today}; is the clock right?",
            not_before.date()
        );
        ensure!(
            not_after.date() > today,
            "the CA expired on {}",
            not_after.date()
        );
        Ok(Self {
            certificate: certificate.to_owned(),
            key: SecretPem::new(key.to_owned()),
            issuer: rcgen::Issuer::from_ca_cert_der(&der.into(), pair)
                .context("the certificate cannot be used")?,
            not_after,
        })
    }

    /// The end of a certificate that is issued `today`: that of the CA at the latest.
    pub fn end_of(&self, validity_days: u32, today: Date) -> Result<OffsetDateTime> {
        Ok(end(today, validity_days)?.min(self.not_after))
    }

    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// A new key and its certificate, which expires no later than the CA.
    pub fn sign(&self, specification: &Specification, today: Date) -> Result<Issued> {
        let doing = || format!("issuing the certificate `{}`", specification.common_name);
        let not_after = self.end_of(specification.validity_days, today)?;
        let mut params = base(
            &specification.common_name,
            specification.organization,
            not_after,
        );
        // Adds basicConstraints CA:FALSE and a subject key identifier, unlike NoCa.
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match specification.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        for name in &specification.dns {
            params.subject_alt_names.push(SanType::DnsName(
                name.as_str().try_into().with_context(doing)?,
            ));
        }
        params
            .subject_alt_names
            .extend(specification.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        let key = KeyPair::generate().with_context(doing)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(doing)?
            .pem();
        Ok(Issued {
            certificate,
            key: SecretPem::new(key.serialize_pem()),
        })
    }
}

/// The key pair with which the control plane signs and verifies service-account tokens.
#[derive(Debug)]
pub struct ServiceAccount {
    pub key: SecretPem,
    /// PEM, `PUBLIC KEY`.
    pub public: String,
}

impl ServiceAccount {
    /// RSA, unlike all other keys: `kubeadm join --control-plane` of 1.20 reads no other kind
    /// (`pkiutil.TryLoadPrivatePublicKeyFromDisk`).
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            .context("creating the service-account key")?;
        Ok(Self {
            key: SecretPem::new(key.serialize_pem()),
            public: key.public_key_pem(),
        })
    }

    /// A pair that does not match or is not RSA is an error.
    pub fn load(key: &str, public: &str) -> Result<Self> {
        let pair = KeyPair::from_pem(key)
            .map_err(|_| anyhow::anyhow!("the key is not a private key in PEM"))?;
        ensure!(
            pair.is_compatible(&PKCS_RSA_SHA256),
            "the key is not RSA, the only kind with which kubeadm 1.20 joins masters"
        );
        let (_, pem) = x509_parser::pem::parse_x509_pem(public.as_bytes())
            .map_err(|_| anyhow::anyhow!("the public key is not in PEM"))?;
        ensure!(
            pem.contents == pair.subject_public_key_info(),
            "the public key and the private key do not belong together"
        );
        Ok(Self {
            key: SecretPem::new(key.to_owned()),
            public: public.to_owned(),
        })
    }
}

/// All CAs, and the service-account key pair.
#[derive(Debug)]
pub struct Authorities {
    pub cluster: Authority,
    pub front_proxy: Authority,
    pub etcd: Authority,
    pub clients: Clients,
    pub service_account: ServiceAccount,
}

impl Authorities {
    pub fn get(&self, issuer: Issuer) -> &Authority {
        match issuer {
            Issuer::Cluster => &self.cluster,
            Issuer::Clients => self.clients.signer().unwrap_or(&self.cluster),
            Issuer::FrontProxy => &self.front_proxy,
            Issuer::Etcd => &self.etcd,
        }
    }

    /// Whether clients have an authority of their own, or are about to get one.
    pub fn has_client_authority(&self) -> bool {
        !matches!(self.clients, Clients::Shared)
    }

    /// The certificates of the authorities whose clients hosts accept, in PEM one after another.
    pub fn client_bundle(&self) -> String {
        let trusted = self.trusted_by_hosts().into_iter();
        trusted.map(|one| one.certificate.as_str()).collect()
    }

    /// The authorities whose clients hosts accept.
    pub fn trusted_by_hosts(&self) -> Vec<&Authority> {
        self.clients.trusted(&self.cluster)
    }
}

/// SHA-256 of the DER in lower-case hexadecimal, as of `openssl x509 -fingerprint -sha256`.
pub fn fingerprint(certificate: &str) -> Result<String> {
    Ok(build_tools::cache::hex(&Sha256::digest(certificate_der(
        certificate,
    )?)))
}

/// The end of a certificate.
pub fn not_after(certificate: &str) -> Result<OffsetDateTime> {
    let der = certificate_der(certificate)?;
    let (_, x509) = X509Certificate::from_der(&der).context("the certificate cannot be read")?;
    Ok(x509.validity().not_after.to_datetime())
}

/// The only certificate of a PEM text.
pub fn certificate_der(pem: &str) -> Result<Vec<u8>> {
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    let Some(Ok(first)) = blocks.next() else {
        bail!("no certificate in PEM")
    };
    ensure!(
        first.label == "CERTIFICATE",
        "`{}` instead of a certificate",
        first.label
    );
    ensure!(blocks.next().is_none(), "more than one certificate");
    Ok(first.contents)
}

fn base(
    common_name: &str,
    organization: Option<&str>,
    not_after: OffsetDateTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = NOT_BEFORE.midnight().assume_utc();
    params.not_after = not_after;
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn end(today: Date, days: u32) -> Result<OffsetDateTime> {
    today
        .checked_add(Duration::days(i64::from(days)))
        .map(|date| date.midnight().assume_utc())
        .with_context(|| {
            format!("{days} days after {today} is later than the year 9999, the last one of certificates")
        })
}
