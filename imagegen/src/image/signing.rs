//! The key that signs the unified kernel image for Secure Boot, and the files that enrol it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use rcgen::{KeyPair, PublicKeyData as _};
use uuid::{Uuid, uuid};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::pki::issue::{SecretPem, certificate_der};

/// `EFI_CERT_X509_GUID` of the UEFI specification.
const X509: Uuid = uuid!("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");

/// The owner of the entry in `db`: any constant of our own.
const OWNER: Uuid = uuid!("5b1e6c1c-2d0f-4c8e-9c57-6f2a6a1e9d30");

/// A key pair of the user.
#[derive(Debug)]
pub struct Signing {
    key: SecretPem,
    certificate: String,
    der: Vec<u8>,
}

impl Signing {
    /// Reads both files. A pair that does not match, or that firmware cannot use, is an error.
    pub fn open(key: &Path, certificate: &Path) -> Result<Self> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))
        };
        let (key_text, text) = (read(key)?, read(certificate)?);
        let pair = KeyPair::from_pem(&key_text).map_err(|_| {
            anyhow!(
                "`{}` is no private key in PEM, or it has a passphrase; remove it: `openssl pkey \
                 -in KEY -out NEW`",
                key.display()
            )
        })?;
        let doing = || format!("reading `{}`", certificate.display());
        let der = certificate_der(&text).with_context(doing)?;
        let (_, x509) = X509Certificate::from_der(&der)
            .map_err(|_| anyhow!("it is no certificate"))
            .with_context(doing)?;
        ensure!(
            x509.public_key().raw == pair.subject_public_key_info(),
            "`{}` and `{}` do not belong together",
            key.display(),
            certificate.display()
        );
        ensure!(
            pair.is_compatible(&rcgen::PKCS_RSA_SHA256),
            "`{}` is not RSA, the only kind that every firmware verifies",
            key.display()
        );
        Ok(Self {
            key: SecretPem::new(key_text),
            certificate: text,
            der,
        })
    }

    /// Of the image's key: the same certificate signs equally.
    pub(crate) fn recipe(&self) -> &[u8] {
        &self.der
    }

    /// Writes key and certificate to `folder`, for the signer. The caller removes it.
    pub(super) fn write_to(&self, folder: &Path) -> Result<()> {
        for (name, text) in [
            ("key", self.key.expose()),
            ("certificate", &self.certificate),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
        }
        Ok(())
    }

    /// Name and bytes of the files with which a person enrols the certificate in the firmware: one
    /// for its menu, one for tools that take signature lists.
    pub fn enrolment(&self) -> Result<[(&'static str, Vec<u8>); 2]> {
        Ok([("db.der", self.der.clone()), ("db.esl", list(&self.der)?)])
    }
}

/// `EFI_SIGNATURE_LIST` with one certificate: three sizes in little endian between the type and
/// the entry, which is owner and DER.
fn list(der: &[u8]) -> Result<Vec<u8>> {
    let entry = u32::try_from(16 + der.len()).context("a certificate of more than 4 GiB")?;
    let mut bytes = X509.to_bytes_le().to_vec();
    for size in [16 + 12 + entry, 0, entry] {
        bytes.extend(size.to_le_bytes());
    }
    bytes.extend(OWNER.to_bytes_le());
    bytes.extend(der);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, PKCS_RSA_SHA256, RsaKeySize};

    use super::*;

    fn pair(
        dir: &Path,
        name: &str,
        key: &KeyPair,
    ) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
        let certificate = CertificateParams::default().self_signed(key)?;
        let paths = (
            dir.join(format!("{name}.key")),
            dir.join(format!("{name}.crt")),
        );
        fs::write(&paths.0, key.serialize_pem())?;
        fs::write(&paths.1, certificate.pem())?;
        Ok(paths)
    }

    #[test]
    fn only_an_rsa_pair_signs() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let rsa = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        let (key, certificate) = pair(dir.path(), "one", &rsa()?)?;
        let (_, other) = pair(dir.path(), "other", &rsa()?)?;
        let (curve_key, curve) = pair(dir.path(), "curve", &KeyPair::generate()?)?;
        let signing = Signing::open(&key, &certificate)?;
        let [(_, der), (_, list)] = signing.enrolment()?;
        assert!(list.ends_with(&der));
        assert_eq!(list[16..20], u32::try_from(list.len())?.to_le_bytes());
        for (key, certificate, why) in [
            (&key, &other, "do not belong together"),
            (&curve_key, &curve, "not RSA"),
            (&certificate, &certificate, "no private key in PEM"),
            (&key, &key, "instead of a certificate"),
            (&dir.path().join("none"), &certificate, "none"),
        ] {
            let error = format!("{:#}", Signing::open(key, certificate).expect_err(why));
            assert!(error.contains(why), "{error}");
        }
        Ok(())
    }
}
