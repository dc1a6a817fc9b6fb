//! Constants that imagegen and firstboot must agree on. Paths are those of the running host.

/// `apiVersion` of the topology, the node file, the image file and the manifest.
pub const API_VERSION: &str = "firstlight/v1";

/// The node file: the place of this machine in its cluster. Part of the document's `write_files`.
pub const NODE_FILE: &str = "/etc/firstlight/node.yaml";

/// The image file: describes the content of the image. Part of the read-only root.
pub const IMAGE_FILE: &str = "/usr/share/firstlight/image.json";

/// The state file: how the image encrypts the state partition. Part of the read-only root of images
/// that do.
pub const STATE_FILE: &str = "/usr/share/firstlight/state.json";

/// An empty folder of the read-only root. firstboot mounts the first key of encrypted state there, for
/// systemd-repart, which copies nothing from `/run`.
pub const FIRST_KEY_DIR: &str = "/usr/share/firstlight/first-key";

/// The key that opens this machine's encrypted state without its TPM. Part of the document; the
/// host's file is in that state.
pub const RECOVERY_KEY: &str = "/etc/firstlight/recovery.key";

/// The kernel image's public key of the policy that the TPM seals the state to. systemd-stub puts it
/// into the initrd.
pub const POLICY_KEY: &str = "/.extra/tpm2-pcr-public-key.pem";

/// The package's `conf/` folder as it is in the read-only root (`kubeadm.yaml`, `net/*.yaml`, …).
pub const CONF_DIR: &str = "/usr/share/firstlight/conf";

/// The package's hooks, in the read-only root: `before-role`, `after-role`.
pub const HOOKS_DIR: &str = "/usr/share/firstlight/hooks";

/// The lvscare static pod, baked into the read-only root; firstboot completes it on workers.
pub const LVSCARE_POD: &str = "/usr/share/firstlight/lvscare.yaml";

/// The status of firstboot, rewritten at every change. On a tmpfs.
pub const STATUS_FILE: &str = "/run/firstlight/status.json";

/// Where the document came from and why, and what became of it. On a tmpfs.
pub const RESULT_FILE: &str = "/run/firstlight/result.json";

/// Every host serves its status here, even before it joins: TLS, `GET /status`, for cluster
/// administrators. No Kubernetes component uses the port, and it lies below the NodePort range and
/// the kernel's ephemeral ports.
pub const STATUS_PORT: u16 = 6440;

/// Server certificate and key of the status port. Part of the document.
pub const STATUS_CERTIFICATE: &str = "/etc/firstlight/status.crt";
pub const STATUS_KEY: &str = "/etc/firstlight/status.key";

/// The apiserver's `EncryptionConfiguration`, in a folder of its own: kubeadm mounts the folder. Part
/// of the documents of masters.
pub const ENCRYPTION_DIR: &str = "/etc/kubernetes/encryption";
pub const ENCRYPTION_FILE: &str = "/etc/kubernetes/encryption/config.yaml";

/// kubelet's serving certificate and key. Part of the document.
pub const KUBELET_CERTIFICATE: &str = "/etc/kubernetes/pki/kubelet-server.crt";
pub const KUBELET_KEY: &str = "/etc/kubernetes/pki/kubelet-server.key";

/// The authorities whose client certificates a host accepts, one or two. Part of the document of a
/// cluster whose clients have an authority of their own; without it `ca.crt` is the only one.
pub const CLIENT_AUTHORITIES: &str = "/etc/kubernetes/pki/clients-ca.crt";

/// The authority that signs certificates of clients now, and its key, beside
/// [`CLIENT_AUTHORITIES`]. Masters only: the controller manager signs with them.
pub const CLIENT_SIGNER_CERTIFICATE: &str = "/etc/kubernetes/pki/clients-signer.crt";
pub const CLIENT_SIGNER_KEY: &str = "/etc/kubernetes/pki/clients-signer.key";

/// The steps that firstboot completed on this host, with times. For people; never used for
/// decisions.
pub const RECEIPT_FILE: &str = "/var/lib/firstlight/receipt.json";

/// File system label of a NoCloud seed; compared case-insensitively.
pub const SEED_LABEL: &str = "cidata";

/// GPT partition names inside the node image.
pub const ESP_PARTITION: &str = "firstlight-esp";
pub const ROOT_PARTITION: &str = "firstlight-root-a";
pub const VERITY_PARTITION: &str = "firstlight-verity-a";
pub const SEED_PARTITION: &str = "firstlight-seed";
pub const STATE_PARTITION: &str = "firstlight-state";
