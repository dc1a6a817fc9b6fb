//! A stolen worker is expelled by a new authority of clients, whose documents the other hosts get by
//! ssh, phase by phase, as `docs/operations.md` has it for people. Its certificate then opens nothing,
//! and no request of another worker fails meanwhile.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use userdata::cloud_config::CloudConfig;
use vm_tests::cluster::checks::DOMAIN;
use vm_tests::cluster::testbed::Testbed;
use vm_tests::cluster::{kubectl, snapshot, ssh};
use vm_tests::host::artifacts::{Programs, topology};
use vm_tests::observe::request_monitor::{RequestMonitor, wait_for_servers};

const STOLEN: &str = "n1";
/// The worker whose requests must not fail.
const WITNESS: &str = "n0";

/// Writes a seed to the host's own partition for it, and lets firstboot take it: the command of
/// `docs/operations.md`.
const GIVE: &str = "cat >/dev/disk/by-partlabel/firstlight-seed && systemctl restart firstboot";
/// On machines with KVM. An apiserver restarts meanwhile.
const GIVE_WITHIN: Duration = Duration::from_secs(180);
/// A kubelet renews its lease after a quarter of the topology's 120 s.
const LEASE_WITHIN: Duration = Duration::from_secs(90);

#[test]
#[ignore = "20 minutes without KVM, and 25 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_rotation two_masters -- --include-ignored"]
fn stolen_seed_of_a_worker_of_two_masters_is_expelled() -> Result<()> {
    expel("rotation", "rotation-stolen")
}

#[test]
#[ignore = "30 minutes without KVM, and 35 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_rotation three_masters -- --include-ignored"]
fn stolen_worker_of_three_masters_is_expelled() -> Result<()> {
    expel("rotation-ha", "rotation-ha")
}

/// `formed` is the topology of the cluster, and `stolen` has the stolen worker too.
fn expel(formed: &str, stolen: &str) -> Result<()> {
    let Some(mut testbed) = snapshot::restored("rotation", formed)? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    // The saved cluster's own folder must keep the authorities of that cluster.
    let folder = testbed.run_dir.folder().to_owned();
    let own = folder.join("output");
    testbed.output = testbed.output.changed(&programs, &topology(stolen), &own)?;
    let masters = testbed.running_control_plane();
    let stolen = Thief::new(&testbed, &masters)?;
    let former_admin = fs::read_to_string(testbed.output.admin())?;
    let former_admin = Client::at(&testbed, &former_admin, "former-admin", &masters[0], 6443)?;
    stolen.expect(Answer::Accepted)?;

    // As the manual: switch it off, delete its node, rotate.
    if testbed.running.contains_key(STOLEN) {
        testbed.power_cut(STOLEN)?;
        testbed.kubectl("m0", &["delete", "node", STOLEN])?;
        testbed.cluster.members.retain(|one| one.name != STOLEN);
    }
    let node = testbed.vm(WITNESS)?;
    wait_for_servers(
        node,
        Duration::from_secs(120),
        &testbed.cluster.apiservers(&[]),
    )?;
    let requests = RequestMonitor::start(node, DOMAIN)?;
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/test-key");
    let key = ssh::private_copy(Path::new(key), &folder)?;
    let begun = testbed.output.rotate(&programs, &["--expel", STOLEN])?;
    ensure!(
        begun.contains("phase 1 of 3") && begun.contains("expelled, without documents: n1"),
        "{begun}"
    );
    give_all(&testbed, &key, "phase 1")?;
    stolen.expect(Answer::Accepted)?;

    next_phase(&testbed, &programs, &key, "phase 2 of 3")?;
    // Its administrator has a new certificate, which hosts of phase 1 accept.
    testbed.forget_kubeconfigs()?;
    give_all(&testbed, &key, "phase 2")?;
    stolen.expect(Answer::Accepted)?;

    next_phase(&testbed, &programs, &key, "phase 3 of 3")?;
    give_all(&testbed, &key, "phase 3")?;
    // At once: a host that is ready accepts the clients of its document only.
    stolen.expect(Answer::Unauthorized)?;
    stolen.assert_opens_nothing(&testbed)?;
    ensure!(
        former_admin.get("/version")?.1 == Answer::Unauthorized,
        "the former administrator's certificate still works"
    );
    next_phase(&testbed, &programs, &key, "no rotation is under way")?;
    check_published(&testbed)?;
    check_hosts(&testbed)?;

    let report = requests.stop()?;
    println!("requests of {WITNESS} during the rotation: {report}");
    ensure!(report.requests.len() > 20, "{report}");
    ensure!(
        report.requests.iter().all(|request| request.is_ok()),
        "requests failed: {report}"
    );
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}

/// What a server says to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The request was authenticated; it may lack an object or a right.
    Accepted,
    Unauthorized,
    /// No answer of HTTP: the handshake of TLS ended.
    Refused,
}

/// A kubeconfig for one server of one host, as a thief in the hosts' network could write it.
struct Client {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Client {
    fn at(testbed: &Testbed, config: &str, name: &str, host: &str, port: u16) -> Result<Self> {
        let address = testbed.member(host)?.address;
        let forward = &testbed.cluster.port_forward;
        let local = forward.forward(0, SocketAddr::new(address, port))?;
        let folder = testbed.run_dir.folder();
        let kubeconfig = folder.join(format!("{name}-{host}-{port}.conf"));
        let text = kubectl::forwarded_kubeconfig(config, local, &address.to_string())?;
        fs::write(&kubeconfig, text)?;
        Ok(Self {
            kubectl: kubectl::kubectl(&testbed.host)?,
            kubeconfig,
            cache: folder.join("kubectl"),
        })
    }

    /// The answer to a request, and what kubectl prints.
    fn get(&self, path: &str) -> Result<(String, Answer)> {
        let output = Command::new(&self.kubectl)
            .arg(format!("--cache-dir={}", self.cache.display()))
            .args(["--request-timeout=600s", "get", &format!("--raw={path}")])
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .output()
            .context("running kubectl")?;
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let says = |part: &str| text.contains(part);
        let answer = if output.status.success() || says("(NotFound)") || says("(Forbidden)") {
            Answer::Accepted
        } else if says("You must be logged in to the server") {
            Answer::Unauthorized
        } else if ["tls: ", "EOF", "reset by peer", "broken pipe"]
            .iter()
            .any(|part| says(part))
        {
            Answer::Refused
        } else {
            bail!("{}: {text}", self.kubeconfig.display());
        };
        Ok((text, answer))
    }
}

/// The stolen kubelet's certificate, and a client with it for each apiserver.
struct Thief {
    config: String,
    apiservers: Vec<(String, Client)>,
}

impl Thief {
    /// Takes the kubeconfig from the document of the stolen worker.
    fn new(testbed: &Testbed, masters: &[String]) -> Result<Self> {
        let document = testbed.output.folder().join("hosts").join(STOLEN);
        let document = fs::read(document.join("user-data"))?;
        let (document, _) = CloudConfig::parse("user-data", &document)?;
        let mut files = document.value.files.iter();
        let config = files
            .find(|file| file.path == "/etc/kubernetes/kubelet.conf")
            .context("the document has no kubeconfig")?;
        let config = String::from_utf8(config.content.expose().clone())?;
        let client = |master: &String| {
            let client = Client::at(testbed, &config, "stolen", master, 6443)?;
            Ok((master.clone(), client))
        };
        let apiservers = masters.iter().map(client).collect::<Result<_>>()?;
        Ok(Self { config, apiservers })
    }

    /// Fails unless every apiserver gives this answer.
    fn expect(&self, wanted: Answer) -> Result<()> {
        for (master, client) in &self.apiservers {
            let (text, answer) = client.get(&format!("/api/v1/nodes/{STOLEN}"))?;
            ensure!(
                answer == wanted,
                "{master} answers the stolen certificate {answer:?} in place of {wanted:?}: {text}"
            );
        }
        println!("the apiservers' answer to the stolen certificate: {wanted:?}");
        Ok(())
    }

    /// The other servers of the hosts.
    fn assert_opens_nothing(&self, testbed: &Testbed) -> Result<()> {
        for member in &testbed.cluster.members {
            let ask = |port, path| {
                Client::at(testbed, &self.config, "stolen", &member.name, port)?.get(path)
            };
            let (text, answer) = ask(6440, "/status")?;
            ensure!(
                answer == Answer::Refused,
                "status of {}: {text}",
                member.name
            );
            // A kubelet accepts clients of `ca`, and asks the apiserver what they may do.
            let (text, _) = ask(10250, "/pods")?;
            ensure!(
                text.contains("(Forbidden)"),
                "kubelet of {}: {text}",
                member.name
            );
            if member.is_control_plane {
                let (text, answer) = ask(2379, "/health")?;
                ensure!(answer == Answer::Refused, "etcd of {}: {text}", member.name);
            }
        }
        Ok(())
    }
}

/// Gives every host its newest document, one after the other.
fn give_all(testbed: &Testbed, key: &Path, phase: &str) -> Result<()> {
    for member in &testbed.cluster.members {
        let (name, vm) = (&member.name, testbed.vm(&member.name)?);
        let begun = Instant::now();
        let login = login(testbed, key, name)?;
        let seed = File::open(testbed.output.seed(name))?;
        let given = ssh::run_with(&login, GIVE, seed.into(), Some(vm.wall(GIVE_WITHIN)));
        if let Err(error) = given {
            let status = vm.run("firstboot status; journalctl -n 40 -u firstboot")?;
            bail!("{phase}, {name}: {error:#}\n{}", status.stdout);
        }
        println!(
            "{phase}: {name} has its document after {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}

fn login(testbed: &Testbed, key: &Path, name: &str) -> Result<Vec<String>> {
    ssh::arguments(
        &testbed.cluster,
        testbed.member(name)?,
        testbed.vm(name)?,
        key,
        testbed.run_dir.folder(),
    )
}

/// Writes the documents of the next phase; the hosts' statuses must allow it.
fn next_phase(testbed: &Testbed, programs: &Programs, key: &Path, title: &str) -> Result<()> {
    let login = login(testbed, key, "m0")?;
    let statuses = ssh::run(&login, "firstboot status --all --timeout 60 --json")?;
    let file = testbed.run_dir.folder().join("status.json");
    fs::write(&file, &statuses)?;
    let file = file.display().to_string();
    let arguments = ["--next", "--status", &file];
    let text = testbed.output.rotate(programs, &arguments)?;
    ensure!(text.contains(title), "{text}");
    Ok(())
}

/// The authorities that apiservers publish are those of the folder, without anybody's help.
fn check_published(testbed: &Testbed) -> Result<()> {
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let published = testbed.get("m0", path)?;
    let own = fs::read_to_string(testbed.output.folder().join("pki/clients-ca.crt"))?;
    let published = published["data"]["client-ca-file"].as_str();
    ensure!(
        published.map(str::trim) == Some(own.trim()),
        "published are {published:?}, the authority of clients is {own}"
    );
    Ok(())
}

/// The programs of the hosts work with their new certificates.
fn check_hosts(testbed: &Testbed) -> Result<()> {
    let begun = Instant::now();
    let leases = |testbed: &Testbed| -> Result<Vec<Value>> {
        let read = |name: &String| {
            let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
            let lease = testbed.get("m0", &format!("{path}/{name}"))?;
            Ok(lease["spec"]["renewTime"].clone())
        };
        let names = testbed.cluster.members.iter().map(|member| &member.name);
        names.map(read).collect()
    };
    let before = leases(testbed)?;
    let node = testbed.vm(WITNESS)?;
    // lvscare reads for each connection what it sees of this file.
    node.shell(
        "cmp /etc/kubernetes/kubelet.conf /proc/$(pgrep -xo lvscare)/root/etc/kubernetes/kubelet.conf",
    )?;
    for member in &testbed.cluster.members {
        let left = testbed
            .vm(&member.name)?
            .shell("grep -c 'PRIVATE KEY' /dev/disk/by-partlabel/firstlight-seed; true")?;
        ensure!(
            left.trim() == "0",
            "the seed of {} still has keys",
            member.name
        );
    }
    // For this the controller manager, the scheduler and the worker's kubelet are needed.
    testbed.apply("m0", "late", &late(&testbed.pause_image(WITNESS)?))?;
    testbed.kubectl(
        "m0",
        &["rollout", "status", "deployment/late", "--timeout=3000s"],
    )?;
    loop {
        let now = leases(testbed)?;
        if before.iter().zip(&now).all(|(before, now)| before != now) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < node.wall(LEASE_WITHIN),
            "kubelets renew no leases: {before:?}, then {now:?}"
        );
        std::thread::sleep(Duration::from_secs(5));
    }
}

fn late(pause: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "late"}, "spec": {
        "selector": {"matchLabels": {"app": "late"}},
        "template": {"metadata": {"labels": {"app": "late"}}, "spec": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "late", "image": pause, "imagePullPolicy": "Never"}],
        }},
    }})
}
