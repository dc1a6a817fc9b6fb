//! Merges the cloud-configs of several parts by cloud-init's rules (`merge_how`).

use super::{CloudConfig, read};
use yaml::{Diagnostic, Diagnostics, MergeRules, Parsed, Severity, Tree};

/// Of parts that name none: a later part replaces whole keys.
const PARTS: &str = "dict(replace)+list()+str()";

/// The default where a whole config is below another: the first value stays.
const BELOW: &str = "list()+dict()+str()";

/// One config of all, each with the rules of its header.
pub(super) fn all(
    name: &str,
    mut configs: Vec<(Parsed<CloudConfig>, Option<String>)>,
    found: &mut Diagnostics,
) -> Result<Parsed<CloudConfig>, Diagnostics> {
    if configs.len() < 2 {
        return match configs.pop() {
            Some((config, _)) => Ok(config),
            None => Ok(read(name, "")?.0),
        };
    }
    let mut tree = Tree::default();
    let mut impossible = Vec::new();
    for (config, header) in configs {
        let part = Tree::of(&config.spans);
        let header = header.unwrap_or_default();
        let rules = part.rules().and_then(|rules| match rules.is_empty() {
            true => MergeRules::parse(if header.is_empty() { PARTS } else { &header }),
            false => Ok(rules),
        });
        match rules {
            Ok(rules) => tree = tree.merged(part, &rules),
            Err(why) => found.push(wrong_rules(&config, name, &why)),
        }
        impossible.extend(config.value.impossible);
    }
    if found.has_errors() {
        return Err(std::mem::take(found));
    }
    merged(&format!("{name} (merged)"), &tree, impossible)
}

/// The user's config with the vendor's below it, if the vendor says how; `None` if it does not.
pub(super) fn with_vendor(
    name: &str,
    user: &Parsed<CloudConfig>,
    vendor: &Parsed<CloudConfig>,
) -> Option<Result<Parsed<CloudConfig>, Diagnostics>> {
    let below = Tree::of(&vendor.spans);
    let rules = match below.rules() {
        Ok(rules) if rules.is_empty() => return None,
        Ok(rules) => rules,
        Err(why) => return Some(Err(wrong_rules(vendor, name, &why).into())),
    };
    let first = MergeRules::parse(BELOW).unwrap_or_default();
    let tree = Tree::default().merged(Tree::of(&user.spans), &first);
    let impossible = [&user.value, &vendor.value].map(|config| config.impossible.clone());
    let result = merged(name, &tree.merged(below, &rules), impossible.concat());
    Some(result.map(|mut config| {
        config.value.scripts.clone_from(&user.value.scripts);
        config
    }))
}

/// The parts are checked already, so notices of the whole would only repeat theirs.
fn merged(
    name: &str,
    tree: &Tree,
    impossible: Vec<String>,
) -> Result<Parsed<CloudConfig>, Diagnostics> {
    let (mut config, _) = read(name, &tree.to_text())?;
    config.value.impossible = impossible;
    Ok(config)
}

fn wrong_rules(config: &Parsed<CloudConfig>, name: &str, why: &str) -> Diagnostic {
    for key in ["merge_how", "merge_type"] {
        if config.spans.get(key).is_some() {
            return config.spans.error_at(key, why, None);
        }
    }
    let message = format!("the header `Merge-Type` of a part: {why}");
    Diagnostic::new(Severity::Error, name, message)
}
