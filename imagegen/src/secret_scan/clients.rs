//! The authorities of clients in the documents.

use anyhow::Result;

use super::Material;
use crate::pki::store::Pki;
use crate::pki::{Issuer, issue};

/// Of a cluster whose clients have an authority of their own; empty without.
#[derive(Debug, Default)]
pub(super) struct ClientMaterial {
    /// Every host has the certificates of these.
    pub(super) trusted: Vec<Material>,
    /// Masters have its certificate and key too.
    pub(super) signer: Option<Material>,
}

impl ClientMaterial {
    pub(super) fn new(pki: &Pki) -> Result<Self> {
        let authorities = &pki.authorities;
        if !authorities.has_client_authority() {
            return Ok(Self::default());
        }
        let material = |one: &issue::Authority| {
            let name = "an authority of clients".to_owned();
            Material::new(name, &one.certificate, one.key.expose())
        };
        let trusted = authorities.trusted_by_hosts().into_iter().map(material);
        Ok(Self {
            trusted: trusted.collect::<Result<_>>()?,
            signer: Some(material(authorities.get(Issuer::Clients))?),
        })
    }
}
