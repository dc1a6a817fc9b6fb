//! `imagegen package upstream` against a web server with upstream's files and a real registry.

mod faults;
mod registry;
mod server;
mod site;

use std::fs;

use serde_json::Value;

use self::site::{FLANNEL, Site, is_program};
use crate::package_verdict::{inspect, lines};
use crate::work::stderr;

fn made(site: &Site, more: &[&str]) -> String {
    let output = site.run(more);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// The error of a run that must fail and write nothing.
fn refused(site: &Site, more: &[&str], words: &[&str]) -> String {
    let output = site.run(more);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!site.work.path("kube").exists(), "{said}");
    let errors: Vec<_> = said
        .lines()
        .filter(|l| l.starts_with("imagegen: "))
        .collect();
    let errors = errors.iter().filter(|l| !l.contains("warning: "));
    assert_eq!(errors.count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    said
}

fn sources(site: &Site) -> Value {
    let text = fs::read(site.work.path("kube/sources.json")).expect("the sources");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn package_of_upstream_is_accepted() {
    let site = Site::new();
    let said = made(&site, &[]);
    assert!(said.contains("no checksum of `"), "{said}");
    assert_eq!(
        said.matches("warning").count(),
        1,
        "only flannel's manifest: {said}"
    );

    let found = inspect(&site.work, "kube");
    assert_eq!(found["kubernetes"], "1.34.4");
    assert_eq!(found["container_runtime"], "containerd");
    assert_eq!(
        (lines(&found, "errors"), lines(&found, "warnings")),
        (String::new(), String::new())
    );
    let images = found["images"].as_array().expect("images");
    assert_eq!(images.len(), 8);
    for image in images {
        assert_ne!(image["named_by"], serde_json::json!([]), "{image}");
    }
    for name in [
        "bin/kubeadm",
        "bin/kubelet",
        "bin/kubectl",
        "bin/crictl",
        "containerd/runc",
    ] {
        assert!(is_program(&site.work, &format!("kube/{name}")), "{name}");
    }
    let kubeadm = fs::read_to_string(site.work.path("kube/conf/kubeadm.yaml")).expect("a file");
    for line in [
        "apiVersion: kubeadm.k8s.io/v1beta4",
        "kubernetesVersion: v1.34.4",
        "imageRepository: registry.k8s.io",
        "    imageTag: \"3.6.5-0\"",
    ] {
        assert!(
            kubeadm.lines().any(|found| found == line),
            "{line}: {kubeadm}"
        );
    }

    let sources = sources(&site);
    for file in sources["files"].as_array().expect("files") {
        let compared = &file["compared_with"];
        let url = file["url"].as_str().expect("a URL");
        assert_eq!(
            compared.is_null(),
            url.ends_with("kube-flannel.yml"),
            "{file}"
        );
    }
    let named = sources["images"].as_array().expect("images").iter();
    assert!(named.clone().any(|image| image["name"] == FLANNEL));
    for image in named {
        let digest = image["digest"].as_str().expect("a digest");
        assert!(site.registry.blob(digest).is_file(), "{digest}");
    }
}

#[test]
fn second_run_fetches_only_checksums_and_manifests() {
    let site = Site::new();
    made(&site, &[]);
    let first = fs::read(site.work.path("kube/images/images.tar")).expect("the images");
    fs::remove_dir_all(site.work.path("kube")).expect("removing");
    site.server.requests();
    let blobs = site.registry.blob_requests();
    assert!(
        blobs >= 16,
        "a layer and a configuration of 8 images: {blobs}"
    );
    made(&site, &[]);
    for (path, _) in site.server.requests() {
        assert!(path.contains(".sha256"), "{path}");
    }
    assert_eq!(site.registry.blob_requests(), blobs);
    let second = fs::read(site.work.path("kube/images/images.tar")).expect("the images");
    assert!(first == second, "the same images give other bytes");

    // What has changed in the cache is fetched again, and nothing else.
    let kubelet = site::digest_of(&site, "bin/kubelet");
    let cached = site.work.path(&format!("cache/upstream/files/{kubelet}"));
    fs::write(&cached, "other bytes").expect("writing");
    fs::remove_dir_all(site.work.path("kube")).expect("removing");
    made(&site, &[]);
    let requests = site.server.requests();
    let files: Vec<_> = requests
        .iter()
        .filter(|(path, _)| !path.contains(".sha256"))
        .collect();
    assert!(
        matches!(files.as_slice(), [(path, None)] if path.ends_with("/kubelet")),
        "{files:?}"
    );
}

#[test]
fn docker_and_own_manifests_are_packed() {
    let site = Site::new();
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n\
        spec: {containers: [{name: a, image: 'example.org/app:1'}]}\n";
    fs::write(site.work.path("app.yaml"), manifest).expect("writing");
    site.registry.push("example.org/app:1");
    site.registry.push("docker.io/library/tool:2");
    let args = [
        "--kubernetes",
        "1.34",
        "--runtime",
        "docker",
        "--cni",
        "none",
    ];
    let more = ["--manifest", "app.yaml", "--image", "tool:2"];
    let said = made(&site, &[&args[..], &more[..]].concat());
    for name in ["docker-28.5.2.tgz", "cri-dockerd-0.4.3.amd64.tgz"] {
        assert!(said.contains(&format!("--sha256 {name}=")), "{said}");
    }
    let found = inspect(&site.work, "kube");
    assert_eq!(lines(&found, "errors"), "");
    assert_eq!(found["container_runtime"], "cri-dockerd");
    assert_eq!(found["kubernetes"], "1.34.4");
    let names = found["images"].as_array().expect("images").iter();
    let names: Vec<_> = names.filter_map(|image| image["name"].as_str()).collect();
    assert!(names.contains(&"example.org/app:1"), "{names:?}");
    assert!(names.contains(&"docker.io/library/tool:2"), "{names:?}");
    assert!(!names.contains(&FLANNEL), "{names:?}");

    fs::remove_dir_all(site.work.path("kube")).expect("removing");
    let wrong = format!("docker-28.5.2.tgz={}", "0".repeat(64));
    let pinned = ["--sha256", &wrong];
    let words = [
        "/docker-28.5.2.tgz` has the SHA-256 ",
        "and `--sha256` has 000",
    ];
    refused(&site, &[&args[..], &pinned[..]].concat(), &words);
}

#[test]
fn package_for_another_architecture_has_its_images() {
    let site = Site::new();
    let said = made(&site, &["--arch", "arm64"]);
    assert!(
        said.contains("imagegen builds no image for arm64 yet"),
        "{said}"
    );
    let images = fs::read(site.work.path("kube/images/images.tar")).expect("the images");
    let mut archive = tar::Archive::new(images.as_slice());
    let entries = archive.entries().expect("an archive");
    let names = entries.map(|entry| {
        let entry = entry.expect("an entry");
        entry.path().expect("a name").display().to_string()
    });
    let names: Vec<_> = names.collect();
    for (architecture, wanted) in [("arm64", true), ("amd64", false)] {
        let layer = registry::sha256(&registry::layer(FLANNEL, architecture));
        let entry = format!("blobs/sha256/{layer}");
        assert_eq!(names.contains(&entry), wanted, "{architecture}: {names:?}");
    }
}

#[test]
fn wrong_usage_is_refused_before_any_download() {
    let site = Site::new();
    for (args, word) in [
        (&["--kubernetes", "1.19"][..], "Kubernetes 1.20 and newer"),
        (&["--mirror", "mirror.example"], "write a URL"),
        (
            &["--mirror", "quay.io=https://m.example"],
            "the hosts are dl.k8s.io",
        ),
        (&["--registry", "https://m.example"], "without `https://`"),
        (
            &["--release", "etcd=3.6.0"],
            "one of these names: containerd",
        ),
        (&["--sha256", "runc.amd64=12"], "64 hexadecimal digits"),
    ] {
        let output = site.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{word}: {said}");
    }
    // Before the command, it is the release of the package that is built from source.
    let release = ["--kubernetes", "1.34"];
    let args = [&["package"][..], &release, &["upstream"], &release].concat();
    let output = site.work.run(&args);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("write it after `upstream`"),
        "{}",
        stderr(&output)
    );

    let manifest =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n";
    for (name, text, words) in [
        ("a.yaml", "kind: [\n", &["a.yaml:2:1"][..]),
        (
            "b.yaml",
            &format!("{manifest}    image: 'app@sha256:{}'\n", "0".repeat(64)),
            &["b.yaml:7:12", "named by digest"],
        ),
        (
            "c.yaml",
            &format!("{manifest}    image: app\n"),
            &["c.yaml:7:12", "IfNotPresent"],
        ),
        ("d.txt", manifest, &["must end in .yaml or .yml"]),
    ] {
        fs::write(site.work.path(name), text).expect("writing");
        refused(&site, &["--manifest", name], words);
    }
    refused(
        &site,
        &["--manifest", "none.yaml"],
        &["reading `none.yaml`"],
    );
    refused(
        &site,
        &["--image", "app@sha256:0"],
        &["name the image by tag"],
    );
    fs::write(site.work.path("empty.pem"), "").expect("writing");
    let output = site
        .command()
        .args(["--kubernetes", "1.34", "--ca", "empty.pem"])
        .output();
    let said = stderr(&output.expect("running imagegen"));
    assert!(
        said.contains("`empty.pem` has no certificate in PEM form"),
        "{said}"
    );
    let requests = site.server.requests();
    assert!(requests.is_empty(), "{requests:?}");
}
