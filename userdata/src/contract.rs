//! Constants that imagegen and firstboot must agree on. Paths are those of the running host.

/// `apiVersion` of the topology, the node file, the image file and the manifest.
pub const API_VERSION: &str = "firstlight/v1";

/// The node file: what this machine is in its cluster. Brought by the document's `write_files`.
pub const NODE_FILE: &str = "/etc/firstlight/node.yaml";

/// The image file: what this image holds. Baked into the read-only root.
pub const IMAGE_FILE: &str = "/usr/share/firstlight/image.json";

/// The package's `conf/` folder as baked into the read-only root (`kubeadm.yaml`, `net/*.yaml`, …).
pub const CONF_DIR: &str = "/usr/share/firstlight/conf";

/// The package's own hooks, baked into the read-only root: `before-role`, `after-role`.
pub const HOOKS_DIR: &str = "/usr/share/firstlight/hooks";

/// The lvscare static pod, baked into the read-only root; firstboot completes it on workers.
pub const LVSCARE_POD: &str = "/usr/share/firstlight/lvscare.yaml";

/// What firstboot says of itself, rewritten at every change; gone at power-off.
pub const STATUS_FILE: &str = "/run/firstlight/status.json";

/// Where every host tells its status, from before it joins: TLS, `GET /status`, for those who may administer the cluster.
/// Of none of Kubernetes' components, below the range of Services' node ports and of the kernel's own.
pub const STATUS_PORT: u16 = 6440;

/// What a host shows to those who ask for its status. Brought by the document.
pub const STATUS_CERTIFICATE: &str = "/etc/firstlight/status.crt";
pub const STATUS_KEY: &str = "/etc/firstlight/status.key";

/// What firstboot did to this host and when: a diary for people, never asked for decisions.
pub const RECEIPT_FILE: &str = "/var/lib/firstlight/receipt.json";

/// File system label of a NoCloud seed; compared without regard to case.
pub const SEED_LABEL: &str = "cidata";

/// GPT partition names inside the node image.
pub const ESP_PARTITION: &str = "firstlight-esp";
pub const ROOT_PARTITION: &str = "firstlight-root-a";
pub const VERITY_PARTITION: &str = "firstlight-verity-a";
pub const SEED_PARTITION: &str = "firstlight-seed";
pub const STATE_PARTITION: &str = "firstlight-state";
