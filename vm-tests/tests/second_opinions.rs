//! Whatever we write, its own format's tools accept: the file system's, dm-verity's, the partition table's, the kernel
//! image's, OpenSSL's and cloud-init's. And what is made twice is the same twice.

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
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::disk;
use vm_tests::run::Run;
use vm_tests::servers::unpack;
use vm_tests::tools::run as judge;

#[test]
fn every_format_is_accepted_by_its_own_tools() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("second_opinions")?;
    let (cache, progress) = (Cache::open()?, Progress::stderr());
    let tools = imagegen::image::tools(&cache, Kernel::Cloud, &progress)?;

    let root = extract(&run, &output.image(), ROOT_PARTITION)?;
    let tree = extract(&run, &output.image(), VERITY_PARTITION)?;
    let hash = text(&output.manifest()?, "/image/root_hash")?;
    judge(tools.program("fsck.erofs")?.arg(&root))?;
    judge(
        tools
            .program("veritysetup")?
            .arg("verify")
            .args([&root, &tree])
            .arg(&hash),
    )?;
    judge(
        judges()?
            .program("sfdisk")?
            .arg("--verify")
            .arg(output.image()),
    )?;

    let uki = run.folder().join("uki.efi");
    fs::write(&uki, kernel_image(&output.image())?)?;
    let mut ukify = tools.chroot(&[(run.folder(), "/tmp/run")], "ukify")?;
    let seen = judge(ukify.args(["inspect", "/tmp/run/uki.efi"]))?;
    let seen = String::from_utf8_lossy(&seen);
    for section in [".linux", ".initrd", ".cmdline", ".osrel", ".uname"] {
        assert!(seen.contains(section), "ukify sees no {section}:\n{seen}");
    }
    assert!(seen.contains(&format!("roothash={hash}")), "{seen}");
    run.passed();
    Ok(())
}

#[test]
fn the_certificates_of_a_master_are_what_openssl_expects() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("openssl")?;
    let judges = judges()?;
    let files = written_files(&output, "m0")?;
    let pki = |name: &str| -> Result<PathBuf> {
        let path = format!("/etc/kubernetes/pki/{name}");
        let (_, bytes) = files
            .iter()
            .find(|(p, _)| *p == path)
            .with_context(|| format!("no `{path}`"))?;
        let at = run.folder().join(name.replace('/', "-"));
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
        judge(openssl.arg(pki(authority)?).arg(pki(leaf)?))
            .with_context(|| format!("{leaf} for {purpose}"))?;
    }
    run.passed();
    Ok(())
}

/// kubeadm reads fixed paths, so it gets a root of its own: its one static binary, and what the document brings.
#[test]
fn kubeadm_accepts_the_documents_certificates() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("kubeadm_certs")?;
    let package = default_package::default_package(&Cache::open()?, &Progress::stderr())?;
    let root = run.folder().join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(package.join("bin/kubeadm"), root.join("bin/kubeadm"))?;
    let brought = written_files(&output, "m0")?;
    for (path, bytes) in &brought {
        let at = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().context("a file without a folder")?)?;
        fs::write(at, bytes)?;
    }
    fs::write(root.join("kubeadm.yaml"), KUBEADM_CONFIGURATION)?;
    let kubeadm = |words: &[&str]| -> Result<String> {
        let mut kubeadm = Command::new("chroot");
        kubeadm.arg(&root).arg("/bin/kubeadm").args(words);
        Ok(String::from_utf8_lossy(&judge(&mut kubeadm)?).into_owned())
    };

    for phase in ["certs", "kubeconfig"] {
        let said = kubeadm(&["init", "phase", phase, "all", "--config", "/kubeadm.yaml"])?;
        assert!(
            !said.contains("Generating") && !said.contains("Writing"),
            "{said}"
        );
    }
    for (path, bytes) in &brought {
        let now = fs::read(root.join(path.trim_start_matches('/')))?;
        assert!(now == *bytes, "kubeadm changed `{path}`");
    }

    // No cluster answers there; kubeadm then says so and goes by the files alone.
    let said = kubeadm(&["certs", "check-expiration"])?;
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
        let line = said
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name));
        let line = line.with_context(|| format!("kubeadm does not list `{name}`:\n{said}"))?;
        let years = line
            .split_whitespace()
            .find_map(|word| word.strip_suffix('y')?.parse::<u32>().ok());
        assert!(years.is_some_and(|years| years >= 99), "{line}");
    }
    run.passed();
    Ok(())
}

/// The topology `one` in kubeadm 1.20's words, as far as certificates and kubeconfigs go.
const KUBEADM_CONFIGURATION: &str = "\
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.168.7.10, bindPort: 6443}
nodeRegistration: {name: m0}
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
controlPlaneEndpoint: apiserver.cluster.local:6443
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
";

/// kube-proxy ran for days without a library that only rules for two endpoints need.
#[test]
fn programs_of_package_images_find_their_libraries() -> Result<()> {
    let package = default_package(&Cache::open()?, &Progress::stderr())?;
    let run = Run::new("images_libraries")?;
    let mut judged = 0;
    for image in fs::read_dir(package.join("images"))? {
        let image = image?.path();
        let name = image.file_stem().context("an image without a name")?;
        let root = run.folder().join(name);
        unpack(&image, &root)?;
        let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
        if !loader.exists() {
            continue;
        }
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let listed = judge(Command::new("find").arg(&root).args(["-type", "f"]))?;
        for file in String::from_utf8_lossy(&listed).lines() {
            let file = Path::new(file);
            // It verifies a program with 0 and a library with 2; what it has nothing to load for, or is no ELF, with others.
            let kind = Command::new(&loader).arg("--verify").arg(file).output()?;
            if file == loader || !matches!(kind.status.code(), Some(0 | 2)) {
                continue;
            }
            let mut ask = Command::new(&loader);
            ask.args(["--inhibit-cache", "--library-path"])
                .arg(&libraries)
                .arg("--list")
                .arg(file);
            let said = judge(&mut ask)?;
            for line in String::from_utf8_lossy(&said).lines() {
                let Some((_, found)) = line.split_once(" => ") else {
                    continue;
                };
                // The loader falls back to the folders of this host, which the container has not.
                assert!(
                    Path::new(found).starts_with(&root),
                    "`{}` in the image `{}`: {line}",
                    file.display(),
                    image.display()
                );
            }
            judged += 1;
        }
    }
    assert!(judged > 100, "only {judged} files were looked at");
    run.passed();
    Ok(())
}

#[test]
fn cloud_init_finds_nothing_wrong_with_the_documents() -> Result<()> {
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let tree = judges()?;
    let folder = output.folder().join("hosts/m0");
    for (kind, file) in [
        ("cloud-config", "user-data"),
        ("network-config", "network-config"),
    ] {
        let mut schema = tree.chroot(&[(&folder, "/tmp/host")], "cloud-init")?;
        schema.args(["schema", "--schema-type", kind, "--config-file"]);
        let said = judge(schema.arg(format!("/tmp/host/{file}")))?;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("Valid schema"), "{file}: {said}");
    }
    Ok(())
}

#[test]
fn the_same_inputs_give_the_same_image() -> Result<()> {
    let programs = Programs::build()?;
    let first = Output::make(&programs, &topology("one"))?;
    let run = Run::new("same_image")?;
    let again = run.folder().join("again");
    let mut imagegen = Command::new(&programs.imagegen);
    imagegen
        .arg("--topology")
        .arg(first.topology())
        .arg("--output")
        .arg(&again);
    judge(imagegen.arg("--programs").arg(&programs.image))?;
    let digest = |folder: &Path| -> Result<String> {
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("manifest.json"))?)?;
        text(&manifest, "/outputs/node.raw")
    };
    // The manifest's digests are of the bytes on disk: see imagegen's own tests.
    assert_eq!(digest(first.folder())?, digest(&again)?);
    run.passed();
    Ok(())
}

/// Debian 13's programs that we use for nothing else than judging.
fn judges() -> Result<Tree> {
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

/// One partition of a disk image as a file of its own.
fn extract(run: &Run, image: &Path, name: &str) -> Result<PathBuf> {
    let out = run.folder().join(name);
    disk::copy_partition(image, name, &out)?;
    Ok(out)
}

/// What the firmware would load from the ESP.
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

/// The files that a host's document brings, decoded.
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
