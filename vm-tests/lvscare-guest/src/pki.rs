//! Certificate files of the fake apiservers: valid, expired, and of a foreign authority.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};

pub(crate) struct Pki {
    folder: PathBuf,
    ours: CertifiedIssuer<'static, KeyPair>,
    foreign: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let pki = Self {
            folder: folder.to_path_buf(),
            ours: authority()?,
            foreign: authority()?,
        };
        fs::write(pki.authority(), pki.ours.pem())?;
        Ok(pki)
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Writes `good.pem`, `expired.pem` and `foreign.pem` of a server to `folder`, each with its
    /// key.
    pub(crate) fn server(&self, folder: &Path, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let mut good = CertificateParams::new(Vec::new())?;
        good.subject_alt_names
            .extend(addresses.iter().copied().map(SanType::IpAddress));
        let mut expired = good.clone();
        expired.not_before = date_time_ymd(2001, 1, 1);
        expired.not_after = date_time_ymd(2002, 1, 1);
        for (name, params, issuer) in [
            ("good", &good, &self.ours),
            ("expired", &expired, &self.ours),
            ("foreign", &good, &self.foreign),
        ] {
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, issuer)?;
            let text = certificate.pem() + &key.serialize_pem();
            fs::write(folder.join(format!("{name}.pem")), text)?;
        }
        Ok(())
    }

    /// Writes a kubelet's kubeconfig to `folder`. The fake apiservers ignore its client
    /// certificate.
    pub(crate) fn kubeconfig(&self, folder: &Path, server: &str) -> anyhow::Result<PathBuf> {
        let key = KeyPair::generate()?;
        let client = CertificateParams::new(Vec::new())?.signed_by(&key, &self.ours)?;
        let pem = folder.join("kubelet.pem");
        fs::write(&pem, client.pem() + &key.serialize_pem())?;
        let pem = pem.display();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster:\n    \
             certificate-authority: {}\n    server: https://{server}\ncontexts:\n- name: c\n  context: \
             {{cluster: k, user: u}}\nusers:\n- name: u\n  user:\n    client-certificate: {pem}\n    client-key: {pem}\n",
            self.authority().display()
        );
        let path = folder.join("kubelet.conf");
        fs::write(&path, text)?;
        Ok(path)
    }
}

fn authority() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}
