//! OpenStack's `network_data.json` as `network-config` of version 1, which cloud-init makes of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::system::machine::Identity;

pub(super) fn version_1(data: &Value, machine: &Identity) -> Result<Value> {
    let links = list(data, "links");
    let networks = list(data, "networks");
    let names = names(links, machine)?;
    let mut config = Vec::new();
    for link in links {
        let id = text(link, "id")?;
        let mut device = Map::new();
        let mut set = |key: &str, value: Value| {
            if !value.is_null() {
                device.insert(key.to_owned(), value);
            }
        };
        set("name", json!(names[id]));
        set("mtu", link["mtu"].clone());
        let mac = link["ethernet_mac_address"].clone();
        match link["type"].as_str().unwrap_or_default() {
            "bond" => {
                set("type", json!("bond"));
                set("mac_address", mac);
                let members = list(link, "bond_links").iter();
                let members = members.map(|member| named(&names, member));
                set(
                    "bond_interfaces",
                    Value::Array(members.collect::<Result<_>>()?),
                );
                set("params", bond_parameters(link));
            }
            "vlan" => {
                set("type", json!("vlan"));
                set("mac_address", link["vlan_mac_address"].clone());
                set("vlan_id", link["vlan_id"].clone());
                set("vlan_link", named(&names, &link["vlan_link"])?);
            }
            // Whatever carries it outside is a port of this machine.
            _ => {
                set("type", json!("physical"));
                set("mac_address", mac);
            }
        }
        let mut subnets = Vec::new();
        for network in networks
            .iter()
            .filter(|network| network["link"] == link["id"])
        {
            let (subnet, accepts) = subnet(network);
            subnets.push(subnet);
            if let Some(accepts) = accepts {
                set("accept-ra", json!(accepts));
            }
        }
        set("subnets", Value::Array(subnets));
        config.push(Value::Object(device));
    }
    for service in list(data, "services")
        .iter()
        .filter(|service| service["type"] == "dns")
    {
        config.push(json!({ "type": "nameserver", "address": service["address"] }));
    }
    Ok(json!({ "version": 1, "config": config }))
}

/// The name of each link by its id: ports have that of their card, as the kernel knows it.
fn names<'a>(links: &'a [Value], machine: &Identity) -> Result<BTreeMap<&'a str, String>> {
    let mut names = BTreeMap::new();
    let mut bonds = 0;
    for (number, link) in links.iter().enumerate() {
        let id = text(link, "id")?;
        let name = match link["type"].as_str() {
            Some("vlan") => continue,
            Some("bond") => {
                bonds += 1;
                format!("bond{}", bonds - 1)
            }
            _ => {
                let mac = link["ethernet_mac_address"].as_str().unwrap_or_default();
                let card = machine
                    .links
                    .iter()
                    .find(|card| card.identity().eq_ignore_ascii_case(mac));
                let given = link["name"].as_str().map(str::to_owned);
                given
                    .or_else(|| card.map(|card| card.name.clone()))
                    .unwrap_or_else(|| format!("net{number}"))
            }
        };
        names.insert(id, name);
    }
    for link in links.iter().filter(|link| link["type"] == "vlan") {
        let below = named(&names, &link["vlan_link"])?;
        let name = format!("{}.{}", below.as_str().unwrap_or_default(), link["vlan_id"]);
        names.insert(text(link, "id")?, name.replace('"', ""));
    }
    Ok(names)
}

fn named(names: &BTreeMap<&str, String>, id: &Value) -> Result<Value> {
    let id = id.as_str().unwrap_or_default();
    let name = names
        .get(id)
        .with_context(|| format!("no link has the id `{id}`"))?;
    Ok(json!(name))
}

fn bond_parameters(link: &Value) -> Value {
    let entries = link.as_object().into_iter().flatten();
    let parameters = entries.filter_map(|(key, value)| {
        let name = key.strip_prefix("bond_").filter(|name| *name != "links")?;
        Some((format!("bond-{}", name.replace('_', "-")), value.clone()))
    });
    Value::Object(parameters.collect())
}

/// A subnet, and what it says of router advertisements.
fn subnet(network: &Value) -> (Value, Option<bool>) {
    let kind = network["type"].as_str().unwrap_or_default();
    let (kind, accepts) = match kind {
        "ipv4_dhcp" => ("dhcp4", None),
        "ipv6_dhcp" => ("dhcp6", Some(true)),
        "ipv6_dhcpv6-stateful" => (kind, Some(true)),
        "ipv4" | "static" => ("static", None),
        "ipv6" | "static6" => ("static6", Some(false)),
        other => (other, None),
    };
    let mut subnet = Map::new();
    subnet.insert("type".to_owned(), json!(kind));
    for (from, to) in [
        ("ip_address", "address"),
        ("netmask", "netmask"),
        ("gateway", "gateway"),
    ] {
        if !network[from].is_null() {
            subnet.insert(to.to_owned(), network[from].clone());
        }
    }
    let mut servers: Vec<&Value> = Vec::new();
    let mut routes = Vec::new();
    for route in list(network, "routes") {
        let keys = ["network", "destination", "netmask", "gateway", "metric"];
        let given = keys.into_iter().filter(|key| !route[*key].is_null());
        let given = given.map(|key| (key.to_owned(), route[key].clone()));
        routes.push(Value::Object(given.collect()));
        servers.extend(dns(route));
    }
    servers.extend(dns(network));
    if !routes.is_empty() {
        subnet.insert("routes".to_owned(), Value::Array(routes));
    }
    if !servers.is_empty() {
        subnet.insert("dns_nameservers".to_owned(), json!(servers));
    }
    (Value::Object(subnet), accepts)
}

fn dns(of: &Value) -> impl Iterator<Item = &Value> {
    let services = list(of, "services").iter();
    services
        .filter(|service| service["type"] == "dns")
        .map(|service| &service["address"])
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(of: &'a Value, key: &str) -> Result<&'a str> {
    of[key]
        .as_str()
        .with_context(|| format!("a link has no `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::machine::Link;
    use userdata::network::Network;

    #[test]
    fn links_of_openstack_become_a_network() {
        let data = json!({
            "links": [
                {"id": "tap-1", "type": "ovs", "ethernet_mac_address": "FA:16:3E:00:00:01", "mtu": 1450},
                {"id": "tap-2", "type": "phy", "ethernet_mac_address": "fa:16:3e:00:00:02"},
                {"id": "b", "type": "bond", "bond_links": ["tap-2"], "bond_mode": "active-backup",
                 "ethernet_mac_address": "fa:16:3e:00:00:02", "bond_miimon": 100},
                {"id": "v", "type": "vlan", "vlan_link": "b", "vlan_id": 7,
                 "vlan_mac_address": "fa:16:3e:00:00:03"},
            ],
            "networks": [
                {"id": "n1", "type": "ipv4", "link": "tap-1", "ip_address": "192.0.2.5",
                 "netmask": "255.255.255.0", "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0",
                 "gateway": "192.0.2.1", "services": [{"type": "dns", "address": "192.0.2.53"}]}]},
                {"id": "n2", "type": "ipv6", "link": "tap-1", "ip_address": "2001:db8::5/64"},
                {"id": "n3", "type": "ipv4_dhcp", "link": "v"},
            ],
            "services": [{"type": "dns", "address": "198.51.100.53"}],
        });
        let machine = Identity {
            links: vec![Link {
                name: "enp1s0".to_owned(),
                mac: "fa:16:3e:00:00:01".to_owned(),
                permanent: None,
            }],
            ..Identity::default()
        };
        let text = version_1(&data, &machine).unwrap().to_string();
        let (network, _) =
            Network::parse("network-config", &text).unwrap_or_else(|e| panic!("{e}"));
        let expected = "version: 2
ethernets:
  enp1s0:
    match: {macaddress: 'fa:16:3e:00:00:01'}
    set-name: enp1s0
    mtu: 1450
    accept-ra: false
    addresses: [192.0.2.5/24, '2001:db8::5/64']
    routes: [{to: default, via: 192.0.2.1}]
    nameservers: {addresses: [192.0.2.53, 198.51.100.53]}
  net1:
    match: {macaddress: 'fa:16:3e:00:00:02'}
    set-name: net1
    nameservers: {addresses: [198.51.100.53]}
bonds:
  bond0:
    macaddress: 'fa:16:3e:00:00:02'
    interfaces: [net1]
    parameters: {mode: active-backup, mii-monitor-interval: 100}
    nameservers: {addresses: [198.51.100.53]}
vlans:
  bond0.7:
    macaddress: 'fa:16:3e:00:00:03'
    id: 7
    link: bond0
    dhcp4: true
    nameservers: {addresses: [198.51.100.53]}
";
        let (expected, _) = Network::parse("expected", expected).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(network, expected);
        let lost = json!({"links": [{"id": "v", "type": "vlan", "vlan_link": "x", "vlan_id": 1}]});
        assert!(
            version_1(&lost, &machine)
                .unwrap_err()
                .to_string()
                .contains("id `x`")
        );
    }
}
