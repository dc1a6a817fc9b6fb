//! The decision whether this host may join etcd now.
//!
//! A new member is a learner first. It has no vote until it has caught up, so a host that fails
//! while it joins costs no quorum; etcd itself admits one learner at a time.

// The callers decide about members and ask for them in one place.
pub use super::client::{Etcd, Member, healthy};

/// What this host does about its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Add it as a learner.
    Join,
    /// It runs as a learner: continue.
    Resume,
    /// It is a voting member.
    Joined,
    /// An interrupted try left it: remove it first.
    Remove(String),
    /// Not yet, for this reason.
    Wait(String),
}

/// Decides whether this host, whose member has the peer URL `own`, joins now.
///
/// `healthy`: ids of the members that report to be healthy. `running`: etcd runs on this host.
/// `data`: this host has the data of a voting member.
pub fn verdict(
    members: &[Member],
    own: &str,
    healthy: &[String],
    running: bool,
    data: bool,
) -> Verdict {
    let is_own = |member: &&Member| member.peers.iter().any(|peer| peer == own);
    let others: Vec<_> = members.iter().filter(|member| !is_own(member)).collect();
    let unhealthy = others.iter().find_map(|member| {
        let peers = || member.peers.join(", ");
        if member.learner {
            Some(format!("member {} is still a learner", peers()))
        } else if member.name.is_empty() || member.clients.is_empty() {
            Some(format!("member {} has not started yet", peers()))
        } else if !healthy.contains(&member.id) {
            Some(format!(
                "member {} ({}) is not healthy",
                member.name,
                peers()
            ))
        } else {
            None
        }
    });
    let Some(member) = members.iter().find(is_own) else {
        return unhealthy.map_or(Verdict::Join, Verdict::Wait);
    };
    if member.learner {
        // Removing a learner needs no vote of its own. A running one catches up, whatever the state
        // of the others.
        return if running {
            Verdict::Resume
        } else {
            Verdict::Remove(member.id.clone())
        };
    }
    if data && !member.name.is_empty() {
        return Verdict::Joined;
    }
    // A voting member without its data. Removing it takes a majority of all voting members, this
    // one included, and the rest needs a quorum of its own.
    let voters = members.iter().filter(|member| !member.learner).count();
    let healthy_voters = others
        .iter()
        .filter(|member| !member.learner && healthy.contains(&member.id))
        .count();
    if healthy_voters > voters / 2 {
        Verdict::Remove(member.id.clone())
    } else {
        Verdict::Wait(format!(
            "the member of this host ({own}) lost its data; removal needs a quorum ({healthy_voters}/{voters} healthy)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://10.0.0.3:2380";

    fn m(id: &str, started: bool, learner: bool) -> Member {
        let url = |port: u16| format!("https://10.0.0.{id}:{port}");
        Member {
            id: id.into(),
            name: if started {
                format!("m{id}")
            } else {
                String::new()
            },
            peers: vec![url(2380)],
            clients: if started { vec![url(2379)] } else { Vec::new() },
            learner,
        }
    }

    /// The verdict for these members and healthy ids.
    fn judge(members: &[Member], healthy: &str, running: bool, data: bool) -> String {
        let healthy: Vec<_> = healthy.chars().map(String::from).collect();
        match verdict(members, OWN, &healthy, running, data) {
            Verdict::Wait(why) => why,
            verdict => format!("{verdict:?}"),
        }
    }

    #[test]
    fn host_joins_only_a_healthy_cluster() {
        let (one, two) = (m("1", true, false), m("2", true, false));
        assert_eq!(judge(std::slice::from_ref(&one), "1", false, false), "Join");
        assert_eq!(
            judge(&[one.clone(), two.clone()], "12", false, false),
            "Join"
        );
        let reason = judge(&[one.clone(), two], "1", false, false);
        assert!(
            reason.contains("m2 (https://10.0.0.2:2380) is not healthy"),
            "{reason}"
        );
        let reason = judge(&[one.clone(), m("2", false, false)], "1", false, false);
        assert!(reason.contains("has not started"), "{reason}");
        for started in [true, false] {
            let reason = judge(&[one.clone(), m("2", started, true)], "12", false, false);
            assert!(reason.contains("learner"), "{reason}");
        }
    }

    #[test]
    fn own_learner_resumes_if_running_else_is_removed() {
        for started in [true, false] {
            let members = [m("1", true, false), m("3", started, true)];
            assert_eq!(judge(&members, "1", true, false), "Resume");
            assert_eq!(judge(&members, "1", false, false), "Remove(\"3\")");
        }
    }

    #[test]
    fn voter_with_its_data_is_never_removed() {
        let members = [
            m("1", true, false),
            m("2", true, false),
            m("3", true, false),
        ];
        for healthy in ["", "1", "12", "123"] {
            assert_eq!(judge(&members, healthy, false, true), "Joined", "{healthy}");
        }
    }

    #[test]
    fn voter_without_data_is_removed_only_with_quorum() {
        let three = [
            m("1", true, false),
            m("2", true, false),
            m("3", true, false),
        ];
        assert_eq!(judge(&three, "12", false, false), "Remove(\"3\")");
        assert!(judge(&three, "1", false, false).contains("(1/3 healthy)"));
        // One of two is no majority: etcd cannot commit the removal.
        let two = [m("1", true, false), m("3", false, false)];
        assert!(judge(&two, "1", false, true).contains("(1/2 healthy)"));
    }
}
