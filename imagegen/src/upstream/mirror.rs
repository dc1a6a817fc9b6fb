//! Where upstream's files and images come from: upstream's own hosts, or mirrors of them.

use std::fmt;

/// Hosts of the files that a package is made of.
pub(super) const HOSTS: [&str; 3] = ["dl.k8s.io", "github.com", "download.docker.com"];

/// A mirror of one host, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    host: Option<String>,
    /// Without a slash at the end.
    base: String,
}

impl Mirror {
    pub(super) fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// `https://mirror.example/files`, or `dl.k8s.io=https://mirror.example/k8s` for one host.
pub fn parse_mirror(text: &str) -> Result<Mirror, String> {
    let mirror = split(text);
    if let Some(host) = &mirror.host
        && !HOSTS.contains(&host.as_str())
    {
        let known = HOSTS.join(", ");
        return Err(format!(
            "no file comes from `{host}`; the hosts are {known}"
        ));
    }
    let scheme = ["https://", "http://"];
    let rest = scheme.iter().find_map(|s| mirror.base.strip_prefix(s));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err("write a URL: `https://mirror.example/files`".to_owned());
    }
    if mirror.base.contains(['?', '#', ' ']) {
        return Err("write a URL without `?`, `#` and spaces".to_owned());
    }
    Ok(mirror)
}

/// `mirror.example/images`, or `registry.k8s.io=mirror.example/k8s` for one registry.
pub fn parse_registry(text: &str) -> Result<Mirror, String> {
    let mirror = split(text);
    if mirror.base.contains("://") {
        return Err("write the registry without `https://`: `mirror.example/images`".to_owned());
    }
    let (host, path) = mirror.base.split_once('/').unwrap_or((&mirror.base, ""));
    let is_host = host.contains(['.', ':']) || host == "localhost";
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._/".contains(c);
    if !is_host || !path.chars().all(allowed) {
        return Err(
            "write a registry's host, its port if it has one, and a path in small letters: \
             `mirror.example:5000/images`"
                .to_owned(),
        );
    }
    Ok(mirror)
}

fn split(text: &str) -> Mirror {
    let (host, base) = match text.split_once('=') {
        Some((host, base)) => (Some(host.to_owned()), base),
        None => (None, text),
    };
    Mirror {
        host,
        base: base.trim_end_matches('/').to_owned(),
    }
}

/// The mirror of `host`: its own, else that of all hosts.
fn of<'m>(mirrors: &'m [Mirror], host: &str) -> Option<&'m Mirror> {
    let own = |mirror: &&Mirror| mirror.host.as_deref() == Some(host);
    let all = |mirror: &&Mirror| mirror.host.is_none();
    mirrors
        .iter()
        .find(own)
        .or_else(|| mirrors.iter().find(all))
}

/// The URL at which a file of upstream is fetched. A mirror of all hosts has a folder for each.
pub(super) fn url(mirrors: &[Mirror], host: &str, path: &str) -> String {
    match of(mirrors, host) {
        None => format!("https://{host}/{path}"),
        Some(Mirror { host: None, base }) => format!("{base}/{host}/{path}"),
        Some(Mirror { base, .. }) => format!("{base}/{path}"),
    }
}

/// The name by which an image with the full name `name` is pulled. A mirror of all registries has
/// a path for each, as `skopeo sync --scoped` makes it.
pub(super) fn image(registries: &[Mirror], name: &str) -> String {
    let (host, path) = name.split_once('/').unwrap_or(("docker.io", name));
    match of(registries, host) {
        // Kubernetes froze the old registry in 2023; the new one has the same images.
        None if host == "k8s.gcr.io" => image(registries, &format!("registry.k8s.io/{path}")),
        None => name.to_owned(),
        Some(Mirror { host: None, base }) => format!("{base}/{host}/{path}"),
        Some(Mirror { base, .. }) => format!("{base}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(texts: &[&str]) -> Vec<Mirror> {
        let parsed = texts.iter().map(|text| parse_mirror(text));
        parsed.collect::<Result<_, _>>().expect("mirrors")
    }

    fn registries(texts: &[&str]) -> Vec<Mirror> {
        let parsed = texts.iter().map(|text| parse_registry(text));
        parsed.collect::<Result<_, _>>().expect("registries")
    }

    #[test]
    fn own_mirror_of_a_host_comes_first() {
        let path = "release/stable-1.34.txt";
        let at = |texts: &[&str]| url(&mirrors(texts), "dl.k8s.io", path);
        assert_eq!(at(&[]), format!("https://dl.k8s.io/{path}"));
        assert_eq!(
            at(&["https://m.example/"]),
            format!("https://m.example/dl.k8s.io/{path}")
        );
        assert_eq!(
            at(&["https://m.example", "dl.k8s.io=http://k8s.example/a"]),
            format!("http://k8s.example/a/{path}")
        );
        assert_eq!(
            at(&["github.com=https://g.example"]),
            format!("https://dl.k8s.io/{path}")
        );
    }

    #[test]
    fn images_of_the_frozen_registry_come_from_the_new_one() {
        let at = |texts: &[&str]| image(&registries(texts), "k8s.gcr.io/pause:3.2");
        assert_eq!(at(&[]), "registry.k8s.io/pause:3.2");
        assert_eq!(
            at(&["registry.k8s.io=m.example/k8s"]),
            "m.example/k8s/pause:3.2"
        );
        assert_eq!(
            at(&["m.example:5000"]),
            "m.example:5000/k8s.gcr.io/pause:3.2"
        );
    }

    #[test]
    fn mirrors_that_cannot_work_are_refused() {
        for text in [
            "mirror.example",
            "https://",
            "example.org=https://m.example",
            "https://m.example/?a",
        ] {
            assert!(parse_mirror(text).is_err(), "{text}");
        }
        for text in ["https://m.example", "mirror", "m.example/Upper", ""] {
            assert!(parse_registry(text).is_err(), "{text}");
        }
    }
}
