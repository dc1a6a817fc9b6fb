//! The standard tool of each format accepts what imagegen writes: fsck.erofs, veritysetup, sfdisk,
//! ukify, openssl, kubeadm and cloud-init. And the same inputs give the same image.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use build_tools::cache::Cache;
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;
use default_package::default_package;
use imagegen::plan::Kernel;
use userdata::contract::{ESP_PARTITION, ROOT_PARTITION, VERITY_PARTITION};
use vm_tests::control_plane::unpack;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::process::run as check;
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;

#[test]
fn image_is_accepted_by_the_tools_of_its_formats() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("second_opinions")?;
    let (cache, progress) = (Cache::open()?, Progress::stderr());
    let tools = imagegen::image::tools(&cache, Kernel::Cloud, &progress)?;

    let root = extract(&run_dir, &output.image(), ROOT_PARTITION)?;
    let tree = extract(&run_dir, &output.image(), VERITY_PARTITION)?;
    let hash = text(&output.manifest()?, "/image/root_hash")?;
    check(tools.program("fsck.erofs")?.arg(&root))?;
    check(
        tools
            .program("veritysetup")?
            .arg("verify")
            .args([&root, &tree])
            .arg(&hash),
    )?;
    check(
        judge_tools()?
            .program("sfdisk")?
            .arg("--verify")
            .arg(output.image()),
    )?;

    let uki = run_dir.folder().join("uki.efi");
    fs::write(&uki, kernel_image(&output.image())?)?;
    let mut ukify = tools.chroot(&[(run_dir.folder(), "/tmp/run")], "ukify")?;
    let output = check(ukify.args(["inspect", "/tmp/run/uki.efi"]))?;
    let seen = String::from_utf8_lossy(&output);
    for section in [".linux", ".initrd", ".cmdline", ".osrel", ".uname"] {
        assert!(seen.contains(section), "ukify lists no {section}:\n{seen}");
    }
    assert!(seen.contains(&format!("roothash={hash}")), "{seen}");
    run_dir.passed();
    Ok(())
}

#[test]
fn certificates_are_accepted_by_openssl() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("openssl")?;
    let judges = judge_tools()?;
    let files = written_files(&output, "m0")?;
    let pki = |name: &str| -> Result<PathBuf> {
        let path = format!("/etc/kubernetes/pki/{name}");
        let (_, bytes) = files
            .iter()
            .find(|(p, _)| *p == path)
            .with_context(|| format!("no `{path}`"))?;
        let at = run_dir.folder().join(name.replace('/', "-"));
        fs::write(&at, bytes)?;
        Ok(at)
    };
    let chains = [
        ("ca.crt", "apiserver.crt", "sslserver"),
        ("ca.crt", "apiserver-kubelet-client.crt", "sslclient"),
        ("front-proxy-ca.crt", "front-proxy-client.crt", "sslclient"),
        ("etcd/ca.crt", "etcd/server.crt", "sslserver"),
        ("etcd/ca.crt", "etcd/peer.crt", "sslserver"),
        ("etcd/ca.crt", "etcd/peer.crt", "sslclient"),
        ("etcd/ca.crt", "etcd/healthcheck-client.crt", "sslclient"),
        ("etcd/ca.crt", "apiserver-etcd-client.crt", "sslclient"),
    ];
    for (authority, leaf, purpose) in chains {
        let mut openssl = judges.program("openssl")?;
        openssl.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]);
        check(openssl.arg(pki(authority)?).arg(pki(leaf)?))
            .with_context(|| format!("verifying {leaf} for {purpose}"))?;
    }
    run_dir.passed();
    Ok(())
}

/// kubeadm reads fixed paths, so it runs in a root of its own with its static binary and the files
/// of the document.
#[test]
fn kubeadm_accepts_the_certificates_of_a_document() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("kubeadm_certs")?;
    let package = default_package::default_package(&Cache::open()?, &Progress::stderr())?;
    let root = run_dir.folder().join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(package.join("bin/kubeadm"), root.join("bin/kubeadm"))?;
    let files = written_files(&output, "m0")?;
    for (path, bytes) in &files {
        let at = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().context("a file without a folder")?)?;
        fs::write(at, bytes)?;
    }
    let base = fs::read_to_string(package.join("conf/kubeadm.yaml"))?;
    let version = base
        .lines()
        .find_map(|line| line.strip_prefix("kubernetesVersion: "))
        .context("the package's kubeadm.yaml names no version")?;
    let configuration = KUBEADM_CONFIGURATION.replace("@VERSION@", version);
    fs::write(root.join("kubeadm.yaml"), configuration)?;
    let kubeadm = |words: &[&str]| -> Result<String> {
        let mut kubeadm = Command::new("chroot");
        kubeadm.arg(&root).arg("/bin/kubeadm").args(words);
        Ok(String::from_utf8_lossy(&check(&mut kubeadm)?).into_owned())
    };

    // firstboot skips `kubeconfig super-admin`.
    for (phase, part) in [
        ("certs", "all"),
        ("kubeconfig", "admin"),
        ("kubeconfig", "kubelet"),
        ("kubeconfig", "controller-manager"),
        ("kubeconfig", "scheduler"),
    ] {
        let output = kubeadm(&["init", "phase", phase, part, "--config", "/kubeadm.yaml"])?;
        assert!(
            !output.contains("Generating") && !output.contains("Writing"),
            "{output}"
        );
    }
    for (path, bytes) in &files {
        let now = fs::read(root.join(path.trim_start_matches('/')))?;
        assert!(now == *bytes, "kubeadm changed `{path}`");
    }

    // Without a cluster kubeadm prints a warning and reads only the files.
    let output = kubeadm(&["certs", "check-expiration"])?;
    let leaves = [
        "admin.conf",
        "apiserver",
        "apiserver-etcd-client",
        "apiserver-kubelet-client",
        "controller-manager.conf",
        "etcd-healthcheck-client",
        "etcd-peer",
        "etcd-server",
        "front-proxy-client",
        "scheduler.conf",
    ];
    for name in leaves
        .into_iter()
        .chain(["ca", "etcd-ca", "front-proxy-ca"])
    {
        let line = output
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name));
        let line = line.with_context(|| format!("kubeadm does not list `{name}`:\n{output}"))?;
        let years = line
            .split_whitespace()
            .find_map(|word| word.strip_suffix('y')?.parse::<u32>().ok());
        assert!(years.is_some_and(|years| years >= 99), "{line}");
    }
    run_dir.passed();
    Ok(())
}

/// The configuration of kubeadm for the certificates and kubeconfigs of the topology `one`.
const KUBEADM_CONFIGURATION: &str = "\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.168.7.10, bindPort: 6443}
nodeRegistration: {name: m0}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: @VERSION@
controlPlaneEndpoint: apiserver.cluster.local:6443
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
";

/// Guards against a missing library that a program loads late: kube-proxy once lacked one that it
/// needs only for a Service with two endpoints.
#[test]
fn programs_of_package_images_find_their_libraries() -> Result<()> {
    let package = default_package(&Cache::open()?, &Progress::stderr())?;
    let run_dir = RunDir::new("images_libraries")?;
    let mut checked = 0;
    for image in fs::read_dir(package.join("images"))? {
        let image = image?.path();
        let name = image.file_stem().context("the image has no name")?;
        let root = run_dir.folder().join(name);
        unpack(&image, &root)?;
        let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
        if !loader.exists() {
            continue;
        }
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let listed = check(Command::new("find").arg(&root).args(["-type", "f"]))?;
        for file in String::from_utf8_lossy(&listed).lines() {
            let file = Path::new(file);
            // `ld.so --verify` returns 0 for a program and 2 for a library, other codes for static
            // programs and other files.
            let kind = Command::new(&loader).arg("--verify").arg(file).output()?;
            if file == loader || !matches!(kind.status.code(), Some(0 | 2)) {
                continue;
            }
            let mut list = Command::new(&loader);
            list.args(["--inhibit-cache", "--library-path"])
                .arg(&libraries)
                .arg("--list")
                .arg(file);
            let output = check(&mut list)?;
            for line in String::from_utf8_lossy(&output).lines() {
                let Some((_, found)) = line.split_once(" => ") else {
                    continue;
                };
                // Outside a container the loader falls back to libraries of the host.
                assert!(
                    Path::new(found).starts_with(&root),
                    "`{}` in the image `{}`: {line}",
                    file.display(),
                    image.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} files were checked");
    run_dir.passed();
    Ok(())
}

#[test]
fn documents_are_accepted_by_cloud_init() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let tree = judge_tools()?;
    let folder = output.folder().join("hosts/m0");
    for (kind, file) in [
        ("cloud-config", "user-data"),
        ("network-config", "network-config"),
    ] {
        let mut schema = tree.chroot(&[(&folder, "/tmp/host")], "cloud-init")?;
        schema.args(["schema", "--schema-type", kind, "--config-file"]);
        let output = check(schema.arg(format!("/tmp/host/{file}")))?;
        let output = String::from_utf8_lossy(&output);
        assert!(output.contains("Valid schema"), "{file}: {output}");
    }
    Ok(())
}

#[test]
fn same_inputs_give_the_same_image() -> Result<()> {
    let programs = Programs::build()?;
    let first = Output::make(&programs, &topology("one"))?;
    let run_dir = RunDir::new("same_image")?;
    let again = run_dir.folder().join("again");
    let mut imagegen = Command::new(&programs.imagegen);
    imagegen
        .arg("--topology")
        .arg(first.topology())
        .arg("--output")
        .arg(&again);
    check(imagegen.arg("--programs").arg(&programs.image))?;
    let digest = |folder: &Path| -> Result<String> {
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("manifest.json"))?)?;
        text(&manifest, "/outputs/node.raw")
    };
    // imagegen's own tests show that the manifest has the digests of the files.
    assert_eq!(digest(first.folder())?, digest(&again)?);
    run_dir.passed();
    Ok(())
}

/// The tools of Debian 13 that judge imagegen's output and have no other use here.
fn judge_tools() -> Result<Tree> {
    let spec = Spec::new(
        "second opinions",
        "trixie",
        "apt",
        &["cloud-init", "fdisk", "openssl"],
    );
    Tree::ensure(&Cache::open()?, &spec, &Progress::stderr())
}

fn text(value: &serde_json::Value, pointer: &str) -> Result<String> {
    let found = value.pointer(pointer).and_then(|v| v.as_str());
    Ok(found
        .with_context(|| format!("the manifest has no `{pointer}`"))?
        .to_owned())
}

/// Copies one partition of a disk image to a file.
fn extract(run_dir: &RunDir, image: &Path, name: &str) -> Result<PathBuf> {
    let out = run_dir.folder().join(name);
    disk::copy_partition(image, name, &out)?;
    Ok(out)
}

/// The file that the firmware loads from the ESP.
fn kernel_image(image: &Path) -> Result<Vec<u8>> {
    let extent = disk::partition(image, ESP_PARTITION)?;
    let mut bytes = vec![0; usize::try_from(extent.length)?];
    let mut disk = File::open(image)?;
    disk.seek(SeekFrom::Start(extent.offset))?;
    disk.read_exact(&mut bytes)?;
    let volume = fatfs::FileSystem::new(std::io::Cursor::new(bytes), fatfs::FsOptions::new())?;
    let mut kernel = Vec::new();
    volume
        .root_dir()
        .open_file("EFI/BOOT/BOOTX64.EFI")?
        .read_to_end(&mut kernel)?;
    Ok(kernel)
}

/// The decoded files of a host's document.
fn written_files(output: &Output, host: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let path = output.folder().join("hosts").join(host).join("user-data");
    let (config, _) = userdata::cloud_config::CloudConfig::parse("user-data", &fs::read(&path)?)?;
    Ok(config
        .value
        .files
        .iter()
        .map(|f| (f.path.clone(), f.content.expose().clone()))
        .collect())
}
