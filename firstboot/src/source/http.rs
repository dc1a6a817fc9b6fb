//! Fetches over HTTP with deadlines and limits, for sources in the network.
//!
//! 404 and 410 are a final answer. Servers that are busy, slow or gone are asked again until the
//! deadline. A redirect leads to the same host or to HTTPS, never from HTTPS to plain HTTP.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ureq::Agent;
use ureq::http::{Request, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::system::files::Root;
use crate::wait::Backoff;

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// No document comes near this size.
const LIMIT: u64 = 4 << 20;
const ATTEMPT: Duration = Duration::from_secs(10);
const REDIRECTS: usize = 5;

/// No server answered within the deadline. A later try may succeed.
#[derive(Debug)]
pub struct Unreachable(pub String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// A client with one deadline for everything that it fetches.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    end: Instant,
    limit: u64,
    /// Seconds by which the clock of the last server is ahead of this machine's.
    ahead: Cell<i64>,
}

/// What one attempt says.
enum Attempt {
    Body(Vec<u8>),
    Missing,
    Redirect(String),
    /// Worth another try.
    Again(String),
    /// Status and reason.
    Refused(u16),
}

impl Http {
    /// For a machine below `root`, whose authorities it trusts.
    pub fn new(root: &Root, total: Duration) -> Result<Self> {
        Self::with_limits(root, total, ATTEMPT, LIMIT)
    }

    fn with_limits(root: &Root, total: Duration, attempt: Duration, limit: u64) -> Result<Self> {
        let pem = root.read(AUTHORITIES)?.unwrap_or_default();
        let certificates: Vec<_> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certificates))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(attempt))
            .user_agent(concat!("firstboot/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            end: Instant::now() + total,
            limit,
            ahead: Cell::new(0),
        })
    }

    /// Seconds since 1970 by the clock of the last server that answered.
    pub(super) fn now(&self) -> i64 {
        seconds(SystemTime::now()).saturating_add(self.ahead.get())
    }

    /// Takes the header `Date` of a server.
    pub(super) fn set_date(&self, date: &str) {
        if let Ok(theirs) = httpdate::parse_http_date(date) {
            self.ahead.set(seconds(theirs) - seconds(SystemTime::now()));
        }
    }

    /// The body at `url`; `None` if there is none.
    pub fn get(&self, url: &str) -> Result<Option<Vec<u8>>> {
        self.fetch("GET", url, &[])
    }

    /// As [`Self::get`], with a method and headers.
    pub fn fetch(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Option<Vec<u8>>> {
        let mut url = url.to_owned();
        let mut backoff = Backoff::growing(&url);
        let (mut redirects, mut tries) = (0, 0_u32);
        loop {
            tries += 1;
            let start = Instant::now();
            let attempt = self.once(method, &url, headers)?;
            let took = start.elapsed().as_millis();
            let shown = shown(&url);
            let reason = match attempt {
                Attempt::Body(body) => {
                    log::info!("{method} {shown}: {} bytes in {took} ms", body.len());
                    return Ok(Some(body));
                }
                Attempt::Missing => {
                    log::info!("{method} {shown}: not there, in {took} ms");
                    return Ok(None);
                }
                Attempt::Refused(status) => bail!("{shown}: the server answers {status}"),
                Attempt::Redirect(to) => {
                    redirects += 1;
                    ensure!(
                        redirects <= REDIRECTS,
                        "{shown}: more than {REDIRECTS} redirects"
                    );
                    url = redirected(&url, &to)?;
                    continue;
                }
                Attempt::Again(reason) => reason,
            };
            log::info!("{method} {shown}: {reason}, in {took} ms");
            if Instant::now() + backoff.upcoming() >= self.end {
                return Err(Unreachable(format!("{shown}: {reason}, {tries} tries")).into());
            }
            backoff.pause();
        }
    }

    fn once(&self, method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Attempt> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A method with a body and none to send.
        let request = request
            .body(())
            .with_context(|| format!("`{}` is not a URL", shown(url)))?;
        let mut response = match self.agent.run(request) {
            Ok(response) => response,
            Err(ureq::Error::BadUri(why)) => bail!("`{}` is not a URL: {why}", shown(url)),
            Err(ureq::Error::Tls(why)) => bail!("{}: TLS: {why}", shown(url)),
            Err(ureq::Error::Rustls(why)) => bail!("{}: TLS: {why}", shown(url)),
            Err(error) => return Ok(Attempt::Again(explain(&error))),
        };
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name)?.to_str().ok();
        if let Some(date) = header("date") {
            self.set_date(date);
        }
        let location = header("location").map(str::to_owned);
        Ok(match (status, location) {
            (200..=299, _) => {
                let body = response.body_mut().with_config().limit(self.limit);
                match body.read_to_vec() {
                    Ok(body) => Attempt::Body(body),
                    Err(ureq::Error::BodyExceedsLimit(_)) => {
                        bail!("{}: is larger than {} MiB", shown(url), self.limit >> 20)
                    }
                    Err(error) => Attempt::Again(explain(&error)),
                }
            }
            (404 | 410, _) => Attempt::Missing,
            (300..=399, Some(to)) => Attempt::Redirect(to),
            (408 | 429 | 500..=599, _) => Attempt::Again(format!("the server answers {status}")),
            _ => Attempt::Refused(status),
        })
    }
}

/// Without the query, which may hold a token, and without credentials.
fn shown(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    match path.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => path.to_owned(),
    }
}

fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Seconds since 1970; 0 before that.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Where a redirect leads, if it may.
fn redirected(from: &str, to: &str) -> Result<String> {
    let parse = |text: &str| -> Result<Uri> {
        text.parse()
            .map_err(|_| anyhow!("{}: redirects to what is not a URL", shown(from)))
    };
    let old = parse(from)?;
    let scheme = old.scheme_str().unwrap_or("http");
    let authority = old.authority().map(ToString::to_string).unwrap_or_default();
    let full = if to.contains("://") {
        to.to_owned()
    } else if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else {
        let folder = old.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{to}")
    };
    let new = parse(&full)?;
    let same_host = new.host() == old.host();
    let allowed = match (scheme, new.scheme_str()) {
        (_, Some("https")) => true,
        ("http", Some("http")) => same_host,
        _ => false,
    };
    ensure!(
        allowed,
        "{}: redirects to `{}`, which is another host or no HTTPS",
        shown(from),
        shown(&full)
    );
    Ok(full)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
