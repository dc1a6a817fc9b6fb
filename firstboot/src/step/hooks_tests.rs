use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    root: Root,
}

impl Bench {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self {
            root: Root::new(dir.path()),
            dir,
        };
        bench.hook(script);
        bench
    }

    /// Replaces the hook, as a new image does.
    fn hook(&self, script: &str) {
        let path = self.root.join(format!("{HOOKS_DIR}/before-role"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = script.replace("OUT", &self.dir.path().join("out").display().to_string());
        self.root
            .write(
                format!("{HOOKS_DIR}/before-role"),
                text.as_bytes(),
                Attributes::mode(0o755),
            )
            .unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// As the next boot finds it.
    fn find(&self) -> Hook {
        let node: NodeConfig = serde_json::from_value(json!({
            "apiVersion": "firstlight/v1", "kind": "Node", "cluster": "lab", "role": "master0",
            "name": "m0", "addresses": ["192.168.7.10/24"],
            "masters": [{"name": "m0", "address": "192.168.7.10"}],
            "apiserver": {"domain": "apiserver.cluster.local", "port": 6443, "vip": "10.103.97.2"},
            "network": {"pods": ["10.244.0.0/16"], "services": ["10.96.0.0/16"]},
            "hosts": [],
        }))
        .unwrap();
        let image: ImageInfo = serde_json::from_value(json!({
            "apiVersion": "firstlight/v1", "kind": "Image", "kubernetes_version": "1.20.2",
            "kubeadm_api_version": "kubeadm.k8s.io/v1beta2",
            "runtime": "containerd", "image_repository": "k8s.gcr.io",
            "etcd_image_tag": "1", "pause_image": "k8s.gcr.io/pause:3.2", "images": [],
            "kubeadm_phases": {"init": [], "join": []}, "package_digest": "sha256:0",
        }))
        .unwrap();
        Hook::find(&self.root, "before-role", &node, &image)
            .unwrap()
            .unwrap()
    }

    /// Whether the hook ran at this boot.
    fn boot(&self) -> Result<bool> {
        let hook = self.find();
        if hook.is_done()? {
            return Ok(false);
        }
        hook.apply(&mut Reporter::silent(&self.root))?;
        Ok(true)
    }

    fn out(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }
}

#[test]
fn hook_runs_once_and_again_when_it_changed() {
    let bench = Bench::new("#!/bin/sh\necho first >>OUT\n");
    assert!(bench.boot().unwrap());
    assert!(!bench.boot().unwrap());
    bench.hook("#!/bin/sh\necho second >>OUT\n");
    assert!(bench.boot().unwrap());
    assert!(!bench.boot().unwrap());
    // A file that it may read is part of it.
    let helper = format!("{HOOKS_DIR}/lib/settings");
    let mode = Attributes::mode(0o644);
    bench.root.write(&helper, b"a", mode).unwrap();
    assert!(bench.boot().unwrap());
    assert!(!bench.boot().unwrap());
    assert_eq!(bench.out(), "first\nsecond\nsecond\n");
}

/// A power cut leaves what the hook did, and no mark.
#[test]
fn hook_that_did_not_end_runs_again() {
    let bench = Bench::new("#!/bin/sh\necho ran >>OUT\ntest -e OUT.done || exit 3\n");
    let error = format!("{:#}", bench.boot().unwrap_err());
    assert_eq!(
        error,
        "running the package's hook `before-role`: running `hooks/before-role`: exit status: 3"
    );
    bench
        .root
        .write("/out.done", b"", Attributes::mode(0o644))
        .unwrap();
    assert!(bench.boot().unwrap());
    assert_eq!(bench.out(), "ran\nran\n");
}

#[test]
fn hook_knows_its_host() {
    let bench = Bench::new(
        "#!/bin/sh\necho \"$FIRSTLIGHT_ROLE $FIRSTLIGHT_NAME $FIRSTLIGHT_CLUSTER \
         $FIRSTLIGHT_ADDRESS $FIRSTLIGHT_KUBERNETES $FIRSTLIGHT_CRI_SOCKET $PWD\" >OUT\n",
    );
    assert!(bench.boot().unwrap());
    assert_eq!(
        bench.out(),
        "master0 m0 lab 192.168.7.10 1.20.2 /run/containerd/containerd.sock /\n"
    );
}

/// It ends with what it started, which would hold its output open for an hour.
#[test]
fn hook_that_hangs_is_a_failure() {
    let bench = Bench::new("#!/bin/sh\necho waiting for a disk\nsleep 3600 &\nsleep 3600\n");
    let mut hook = bench.find();
    hook.limit = Duration::from_millis(300);
    let error = hook.apply(&mut Reporter::silent(&bench.root)).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("it did not end in 0.3 s"), "{error}");
    assert!(!hook.is_done().unwrap());
}
