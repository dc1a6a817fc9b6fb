//! What `kubectl apply` leaves to the apiserver's defaults, and what a server-side apply of an old
//! release demands: it refuses a list whose items lack a key or have the same one.

use super::reader::{Kind, Node};
use super::{Object, set};

pub(super) fn object(object: &mut Object, changes: &mut Vec<String>) {
    let mut said = Vec::new();
    if object.kind == "Service"
        && object.group().is_empty()
        && let Some(ports) = list(&mut object.node, &["spec"], "ports")
    {
        protocols(ports);
    }
    if object.kind != "CustomResourceDefinition" {
        pods(&mut object.node, &mut said);
    }
    changes.extend(
        said.into_iter()
            .map(|(place, text)| object.at(place) + &text),
    );
}

type Said = Vec<(super::Place, String)>;

/// Completes the containers of every pod specification below `node`.
fn pods(node: &mut Node, said: &mut Said) {
    for key in ["initContainers", "containers"] {
        for container in list(node, &[], key).into_iter().flatten() {
            if let Some(ports) = list(container, &[], "ports") {
                protocols(ports);
                let key = |port: &Node| {
                    let of = |key| port.get(key).map(Node::value);
                    format!("port {:?} {:?}", of("containerPort"), of("protocol"))
                };
                last_of_each(ports, "port", key, said);
            }
            if let Some(env) = list(container, &[], "env") {
                let key = |item: &Node| {
                    item.get("name")
                        .and_then(Node::str)
                        .unwrap_or("")
                        .to_owned()
                };
                last_of_each(env, "variable", key, said);
            }
        }
    }
    match &mut node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => items.iter_mut().for_each(|item| pods(item, said)),
        Kind::Map(entries) => entries.iter_mut().for_each(|(_, item)| pods(item, said)),
    }
}

fn list<'a>(node: &'a mut Node, path: &[&str], key: &str) -> Option<&'a mut Vec<Node>> {
    let mut at = node;
    for step in path.iter().chain([&key]) {
        let Kind::Map(entries) = &mut at.kind else {
            return None;
        };
        at = entries
            .iter_mut()
            .find(|(known, _)| known == step)
            .map(|(_, node)| node)?;
    }
    match &mut at.kind {
        Kind::List(items) => Some(items),
        _ => None,
    }
}

/// TCP, the default of the API.
fn protocols(ports: &mut [Node]) {
    for port in ports {
        if matches!(port.kind, Kind::Map(_)) && port.get("protocol").is_none_or(Node::is_null) {
            set(port, "protocol", "TCP");
        }
    }
}

/// Of items with an equal key the last one stays, which is the one that counts in a container.
fn last_of_each(items: &mut Vec<Node>, what: &str, key: impl Fn(&Node) -> String, said: &mut Said) {
    let keys: Vec<String> = items.iter().map(&key).collect();
    let mut number = 0;
    items.retain(|item| {
        number += 1;
        let again = keys[number..].contains(&keys[number - 1]);
        if again {
            let name = item.get("name").and_then(Node::str).unwrap_or_default();
            said.push((
                item.place,
                format!("{what} `{name}` stands twice; the last one counts"),
            ));
        }
        !again
    });
}
