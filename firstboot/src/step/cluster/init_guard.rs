//! Refuses to initialise a second cluster, and moves etcd's data of an unfinished first boot out of
//! the way.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use userdata::contract::STATUS_PORT;
use userdata::node_config::NodeConfig;

use super::node_address;
use crate::etcd;
use crate::kube::client::Client;
use crate::kubeadm::marker;
use crate::kubeadm::paths::{CA_CERTIFICATE, ETCD_DATA};
use crate::report::Reporter;
use crate::status::cluster::request_at;
use crate::step::Step;
use crate::system::files::Root;
use crate::system::{machine, systemd};
use crate::wait::{Backoff, endpoint};

/// How long masters may be silent before this one takes them for switched off. This one has booted
/// too: when a site gets its power back, others are later only by the difference of their firmware.
const SILENCE: Duration = Duration::from_secs(120);

const WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct InitGuard {
    root: Root,
    name: String,
    others: Vec<Other>,
}

/// Another control-plane host.
#[derive(Debug)]
struct Other {
    name: String,
    /// `address:port` of its apiserver and of its status.
    apiserver: String,
    status: String,
}

/// What another master says of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// Where it shows that the cluster exists.
    Exists(String),
    /// It has never been in the cluster.
    New,
    /// Why nothing is known.
    Unknown(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Initialise,
    Refuse(String),
    /// For these hosts.
    Wait(String),
}

impl InitGuard {
    pub fn new(root: &Root, node: &NodeConfig) -> Result<Self> {
        let own = node_address(node)?;
        let others = node
            .masters
            .iter()
            .filter(|master| master.address != own && master.name != node.name)
            .map(|master| Other {
                name: master.name.clone(),
                apiserver: endpoint(master.address, node.apiserver.port),
                status: endpoint(master.address, STATUS_PORT),
            });
        Ok(Self {
            root: root.clone(),
            name: node.name.clone(),
            others: others.collect(),
        })
    }

    fn authority(&self) -> Result<Vec<u8>> {
        self.root.read(CA_CERTIFICATE)?.with_context(|| {
            format!("`{CA_CERTIFICATE}` is missing: the document does not contain it")
        })
    }

    /// A second cluster of the same name and authority would split this one: nodes could not tell
    /// them apart. The apiserver of a master may be down, after a power failure of all of them, so
    /// that its status counts too.
    fn wait_until_known(&self, report: &mut Reporter) -> Result<()> {
        let mut backoff = Backoff::new(&self.name);
        loop {
            let answers = self.ask()?;
            match decide(&answers, Duration::from_secs(backoff.wait().age())) {
                Decision::Initialise => break,
                Decision::Refuse(error) => bail!(error),
                Decision::Wait(hosts) => {
                    let target = "the other masters, which may run this cluster";
                    let limit = SILENCE.as_secs() / 60;
                    let answer = format!(
                        "{hosts}; this host initialises after {limit} min without an answer"
                    );
                    report.waiting(target, &answer, backoff.wait());
                    backoff.pause();
                }
            }
        }
        report.wait_finished();
        Ok(())
    }

    fn ask(&self) -> Result<Vec<Answer>> {
        let authority = self.authority()?;
        let answers = thread::scope(|scope| {
            let asking: Vec<_> = self
                .others
                .iter()
                .map(|other| scope.spawn(|| other.ask(&self.root, &authority)))
                .collect();
            asking
                .into_iter()
                .zip(&self.others)
                .map(|(thread, other)| {
                    let failed = |_| Answer::Unknown(format!("`{}`: a thread failed", other.name));
                    thread.join().unwrap_or_else(failed)
                })
                .collect()
        });
        Ok(answers)
    }

    /// etcd's data of a first boot whose apiserver never answered holds nothing, and may be torn.
    fn clear_unfinished_etcd(&self) -> Result<()> {
        if self.root.list(ETCD_DATA)?.is_empty() {
            return Ok(());
        }
        // firstboot has restarted in the same boot: a running etcd has read its data and found it
        // whole.
        if systemd::is_active("kubelet.service")? || machine::is_running("etcd")? {
            return Ok(());
        }
        etcd::back_up_data(&self.root, "it is from an unfinished first boot")
    }
}

impl Other {
    fn ask(&self, root: &Root, authority: &[u8]) -> Answer {
        let Self {
            name,
            apiserver,
            status,
        } = self;
        // Any response counts, even 403: the TLS handshake has proved the authority.
        let served =
            Client::anonymous(authority, apiserver, WITHIN).and_then(|client| client.get("/livez"));
        if served.is_ok() {
            return Answer::Exists(format!("the apiserver of `{name}` ({apiserver})"));
        }
        match request_at(root, status, WITHIN) {
            Ok(report) if report.status.in_control_plane => {
                Answer::Exists(format!("`{name}` is in its control plane ({status})"))
            }
            Ok(_) => Answer::New,
            Err(error) => Answer::Unknown(format!("`{name}`: {error:#}")),
        }
    }
}

fn decide(answers: &[Answer], waited: Duration) -> Decision {
    let exists: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Exists(place) => Some(place.as_str()),
            _ => None,
        })
        .collect();
    if !exists.is_empty() {
        return Decision::Refuse(format!(
            "this cluster already exists: {}, and this machine has no state of it; initialising would \
             create a second cluster. If this machine lost its disk, put another master first in the \
             topology and give this host its new document, so that it joins",
            exists.join(", ")
        ));
    }
    let unknown: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Unknown(reason) => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    if unknown.is_empty() {
        return Decision::Initialise;
    }
    if waited >= SILENCE {
        log::warn!(
            "no answer within {} min ({}); taking these masters for switched off",
            SILENCE.as_secs() / 60,
            unknown.join(", ")
        );
        return Decision::Initialise;
    }
    Decision::Wait(unknown.join(", "))
}

impl fmt::Display for InitGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "check that no other master serves this cluster")
    }
}

impl Step for InitGuard {
    fn name(&self) -> &'static str {
        "init-guard"
    }

    /// A host with any of these markers belongs to this cluster, as master0 or as a master that a
    /// new topology puts first: its etcd data stays, whatever other files are missing.
    fn is_done(&self) -> Result<bool> {
        marker::in_control_plane(&self.root)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        self.wait_until_known(report)?;
        self.clear_unfinished_etcd()
    }

    /// A check leaves nothing behind, and data that is moved away is no change of configuration.
    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::system::files::Attributes;

    fn step() -> (tempfile::TempDir, InitGuard) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.write(CA_CERTIFICATE, b"an authority", Attributes::mode(0o644))
            .unwrap();
        let guard = InitGuard {
            root,
            name: "m0".to_owned(),
            others: Vec::new(),
        };
        (dir, guard)
    }

    #[test]
    fn one_master_of_the_cluster_is_enough_to_refuse_and_silence_to_wait() {
        let exists = Answer::Exists("`m1` is in its control plane".to_owned());
        let unknown = Answer::Unknown("`m2`: timed out".to_owned());
        let (short, long) = (Duration::from_secs(119), SILENCE);
        for waited in [short, long] {
            let decision = decide(&[Answer::New, unknown.clone(), exists.clone()], waited);
            let Decision::Refuse(error) = decision else {
                panic!("{decision:?}")
            };
            assert!(error.contains("`m1` is in its control plane"), "{error}");
            assert_eq!(
                decide(&[Answer::New, Answer::New], waited),
                Decision::Initialise
            );
            assert_eq!(decide(&[], waited), Decision::Initialise);
        }
        let mixed = [Answer::New, unknown];
        let wait = Decision::Wait("`m2`: timed out".to_owned());
        assert_eq!(decide(&mixed, short), wait);
        assert_eq!(decide(&mixed, long), Decision::Initialise);
    }

    #[test]
    fn guard_is_done_once_the_apiserver_has_answered() {
        for marker in [
            marker::APISERVER_ANSWERED,
            marker::INITIALISED,
            marker::JOINED,
            marker::ETCD_VOTES,
        ] {
            let (_dir, guard) = step();
            assert!(!guard.is_done().unwrap());
            marker::set(&guard.root, marker).unwrap();
            assert!(guard.is_done().unwrap(), "{marker}");
        }
    }

    #[test]
    fn foreign_server_on_master_port_is_not_this_cluster() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        // Answers without TLS: once for the connection test, once for the request.
        let foreign = thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut hello = [0; 64];
                let _ = stream.unwrap().read(&mut hello);
            }
        });
        let (_dir, mut guard) = step();
        guard.others.push(Other {
            name: "m1".to_owned(),
            apiserver: endpoint,
            status: "127.0.0.1:1".to_owned(),
        });
        let certified = some_authority();
        guard
            .root
            .write(
                CA_CERTIFICATE,
                certified.as_bytes(),
                Attributes::mode(0o644),
            )
            .unwrap();
        let answers = guard.ask().unwrap();
        assert!(matches!(&answers[..], [Answer::Unknown(_)]), "{answers:?}");
        foreign.join().unwrap();
    }

    /// Any certificate works: it signs nothing here.
    fn some_authority() -> String {
        include_str!("../../../tests/fixtures/authority.crt").to_owned()
    }
}
