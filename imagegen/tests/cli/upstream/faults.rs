//! Servers and registries that fail: one error with the URL and the cure, and a second run that
//! goes on.

use std::fs;

use super::server::Fault;
use super::site::{KUBELET_SIZE, RELEASE, Site};
use super::{made, refused};
use crate::work::stderr;

fn kubelet() -> String {
    format!("dl.k8s.io/{RELEASE}/kubelet")
}

/// Where the ranges of the requests for a path begin.
fn ranges(site: &Site, path: &str) -> Vec<Option<usize>> {
    let requests = site.server.requests().into_iter();
    let of_path = requests.filter(|(asked, _)| *asked == format!("/{path}"));
    of_path.map(|(_, from)| from).collect()
}

/// A run that gets 100,000 bytes of the file and fails.
fn broken(site: &Site, path: &str) {
    let fault = Fault::Cut {
        bytes: 100_000,
        times: usize::MAX,
    };
    site.server.fail(path, fault);
    refused(site, &[], &["the connection broke"]);
}

#[test]
fn refusals_of_the_server_are_explained() {
    let site = Site::new();
    let (file, sums) = (kubelet(), format!("{}.sha256", kubelet()));
    let url = site.server.url(&file);
    for (path, fault, words) in [
        (
            &file,
            Fault::Status(404),
            &["HTTP 404: no such file", "`--release`"][..],
        ),
        (
            &file,
            Fault::Status(451),
            &["HTTP 451; open the URL in a browser"],
        ),
        (
            &file,
            Fault::Password("a:b"),
            &["HTTP 401", "machine localhost login NAME", "~/.netrc"],
        ),
        (
            &file,
            Fault::Garbage,
            &["has the SHA-256 ", ".sha256` has ", "the file is removed"],
        ),
        (
            &sums,
            Fault::Garbage,
            &["has no SHA-256 of `kubelet`", "--sha256 kubelet=HEX"],
        ),
        (&sums, Fault::Status(404), &["HTTP 404"]),
    ] {
        site.server.fail(path, fault);
        let said = refused(&site, &[], words);
        assert!(said.contains(&format!("`{url}")), "no URL: {said}");
        site.server.recover();
    }
    // The checksum of a file that the cache does not have.
    let right = site.server.get(&sums);
    site.server.put(&sums, "0".repeat(64).as_bytes());
    refused(
        &site,
        &[],
        &["has the SHA-256 ", ".sha256` has ", "the file is removed"],
    );
    site.server.put(&sums, &right);

    site.server.fail(&file, Fault::Password("tester:secret"));
    let netrc = "machine localhost login tester password secret\n";
    fs::write(site.work.path("home/.netrc"), netrc).expect("writing");
    made(&site, &[]);
}

#[test]
fn unknown_authorities_and_closed_ports_are_explained() {
    let site = Site::new();
    let url = site.server.url("");
    let run = |mirror: &str| {
        let output = site
            .command()
            .args(["--kubernetes", "v1.34.4", "--mirror", mirror, "-o", "kube"])
            .output();
        let output = output.expect("running imagegen");
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let said = run(&url);
    assert!(said.contains(&format!("downloading `{url}")), "{said}");
    assert!(
        said.contains("give its certificate with `--ca FILE`"),
        "{said}"
    );
    // No service listens on port 9.
    let said = run("https://localhost:9");
    assert!(said.contains("does it need HTTPS_PROXY?"), "{said}");
}

#[test]
fn broken_download_goes_on_where_it_stopped() {
    let site = Site::new();
    let path = kubelet();
    // Within a run.
    let cut = Fault::Cut {
        bytes: 200_000,
        times: 1,
    };
    site.server.fail(&path, cut);
    made(&site, &[]);
    let ranges_of_run = ranges(&site, &path);
    assert_eq!(ranges_of_run, [None, Some(200_000)]);

    // Across runs, with a server that breaks every connection at the same place.
    forget(&site);
    site.server.fail(
        &path,
        Fault::Cut {
            bytes: 300_000,
            times: usize::MAX,
        },
    );
    let said = refused(
        &site,
        &[],
        &["the connection broke", "it goes on where it stopped"],
    );
    assert!(said.contains(&site.server.url(&path)), "{said}");
    ranges(&site, &path);
    site.server.recover();
    made(&site, &[]);
    assert_eq!(ranges(&site, &path), [Some(300_000)]);
}

#[test]
fn part_of_other_bytes_and_servers_without_ranges_start_again() {
    let site = Site::new();
    let path = kubelet();
    let right = site.server.get(&path);
    // The part is of another file.
    site.server.put(&path, &vec![7; KUBELET_SIZE]);
    broken(&site, &path);
    site.server.recover();
    site.server.put(&path, &right);
    ranges(&site, &path);
    made(&site, &[]);
    assert_eq!(ranges(&site, &path), [Some(100_000), None]);

    forget(&site);
    broken(&site, &path);
    site.server.fail(&path, Fault::Whole);
    ranges(&site, &path);
    made(&site, &[]);
    assert_eq!(ranges(&site, &path), [Some(100_000), None]);
}

#[test]
fn silent_server_is_given_up() {
    let site = Site::new();
    site.server
        .fail(&kubelet(), Fault::Silence { bytes: 50_000 });
    let words = [
        "the server has sent nothing for 2 s",
        "`--timeout` sets the seconds",
    ];
    let said = refused(&site, &["--timeout", "2"], &words);
    assert!(said.contains(&site.server.url(&kubelet())), "{said}");
}

#[test]
fn registry_without_image_or_credentials_is_explained() {
    let site = Site::without_credentials();
    // Images are pulled side by side, so that any of them may be the first to fail.
    let image = format!("pulling the image `{}/", site.registry.name());
    let login = format!("`docker login {}`", site.registry.name());
    let none = refused(
        &site,
        &[],
        &[&image, "there is no ~/.docker/config.json", &login],
    );
    assert!(
        none.contains("unauthorized") || none.contains("authentication"),
        "{none}"
    );
    site.login("tester:wrong");
    refused(
        &site,
        &[],
        &[
            &image,
            ".docker/config.json` has none that it takes",
            &login,
        ],
    );
    site.login(super::registry::USER);
    let missing = format!("{}/docker.io/library/absent:1`", site.registry.name());
    let words = [missing.as_str(), "the registry has no such image"];
    refused(&site, &["--image", "absent:1"], &words);
    made(&site, &[]);
}

#[test]
fn corrupt_layer_is_refused_and_the_rest_kept() {
    let site = Site::new();
    let layer = super::registry::layer(super::FLANNEL, "amd64");
    let blob = site.registry.blob(&super::registry::sha256(&layer));
    let mut other = layer.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(&blob, &other).expect("writing");
    let image = format!(
        "pulling the image `{}/{}`",
        site.registry.name(),
        super::FLANNEL
    );
    refused(
        &site,
        &[],
        &[&image, "the registry sends other bytes than it names"],
    );
    fs::write(&blob, &layer).expect("writing");
    let before = site.registry.blob_requests();
    made(&site, &[]);
    let after = site.registry.blob_requests() - before;
    assert!((1..16).contains(&after), "{after} blobs, of 16 in all");
}

/// Removes the package, and the kubelet from the cache.
fn forget(site: &Site) {
    let digest = super::site::digest_of(site, "bin/kubelet");
    let cached = site.work.path(&format!("cache/upstream/files/{digest}"));
    fs::remove_file(cached).expect("removing");
    fs::remove_dir_all(site.work.path("kube")).expect("removing");
}
