//! Merges trees by the rules of cloud-init's `merge_how`, and writes the result.
//!
//! A rule names a kind of value and options: `list(append)+dict(no_replace,recurse_list)+str()`. A
//! kind without a rule keeps the first value.

use crate::read::scalar::{self, Plain};
use crate::read::tree::{Entry, Item, Kind, Node, Style};
use crate::report::spans::Spans;
use crate::write::quoted;

/// A tree without its text.
#[derive(Debug, Clone)]
pub struct Tree(Node);

/// The rules of one merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeRules(Vec<(Rule, Vec<String>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Dict,
    List,
    Str,
}

impl Rule {
    fn named(name: &str) -> Result<Rule, String> {
        match name {
            "dict" => Ok(Rule::Dict),
            "list" => Ok(Rule::List),
            "str" => Ok(Rule::Str),
            other => Err(format!(
                "`{other}` is no kind of value: write `dict`, `list` or `str`"
            )),
        }
    }
}

impl MergeRules {
    /// Reads `list(append)+dict()`. An empty text has no rule.
    pub fn parse(text: &str) -> Result<MergeRules, String> {
        let mut rules = Vec::new();
        for part in text
            .split('+')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let inner = part.strip_suffix(')').and_then(|part| part.split_once('('));
            let Some((name, options)) = inner else {
                return Err("write rules such as `list(append)+dict()`".to_owned());
            };
            let options = options.split(',').map(clean).filter(|one| !one.is_empty());
            rules.push((Rule::named(&clean(name))?, options.collect()));
        }
        Ok(MergeRules(rules))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn options(&self, rule: Rule) -> Option<&[String]> {
        let mut rules = self.0.iter().filter(|(kind, _)| *kind == rule);
        rules.next().map(|(_, options)| options.as_slice())
    }
}

fn clean(text: &str) -> String {
    text.trim().to_ascii_lowercase().replace('-', "_")
}

impl Default for Tree {
    fn default() -> Self {
        Tree(map(Vec::new()))
    }
}

impl Tree {
    pub fn of(spans: &Spans) -> Tree {
        Tree(spans.root.clone())
    }

    /// The rules under `merge_how` or `merge_type` of the tree: text, or a list of mappings or lists.
    pub fn rules(&self) -> Result<MergeRules, String> {
        let Kind::Map(entries) = &self.0.kind else {
            return Ok(MergeRules::default());
        };
        let named = |key: &str| entries.iter().find(|entry| entry.key == key);
        let Some(entry) = named("merge_how").or_else(|| named("merge_type")) else {
            return Ok(MergeRules::default());
        };
        match &entry.value.kind {
            Kind::Scalar { text, .. } => MergeRules::parse(text),
            Kind::Seq(items) => {
                let rules = items.iter().map(|item| rule_of(&item.value));
                rules.collect::<Result<_, _>>().map(MergeRules)
            }
            Kind::Map(_) => Err("expected text or a list".to_owned()),
        }
    }

    /// This tree with `other`, without the rules that either holds.
    pub fn merged(self, other: Tree, rules: &MergeRules) -> Tree {
        Tree(merge(self.0, without_rules(other.0), rules))
    }

    /// YAML that [`crate::parse`] reads as this tree.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        write(&mut out, &self.0);
        out.push('\n');
        out
    }
}

fn rule_of(node: &Node) -> Result<(Rule, Vec<String>), String> {
    let text = |node: &Node| match &node.kind {
        Kind::Scalar { text, .. } => Ok(clean(text)),
        _ => Err("expected a name".to_owned()),
    };
    let texts = |items: &[Item]| -> Result<Vec<String>, String> {
        items.iter().map(|item| text(&item.value)).collect()
    };
    match &node.kind {
        Kind::Map(entries) => {
            let named = |key: &str| entries.iter().find(|entry| entry.key == key);
            let name = named("name").ok_or("the key `name` is missing")?;
            let options = match named("settings").map(|entry| &entry.value.kind) {
                Some(Kind::Seq(items)) => texts(items)?,
                _ => Vec::new(),
            };
            Ok((Rule::named(&text(&name.value)?)?, options))
        }
        Kind::Seq(items) => {
            let all = texts(items)?;
            let (name, options) = all.split_first().ok_or("a rule is empty")?;
            Ok((Rule::named(name)?, options.to_vec()))
        }
        Kind::Scalar { .. } => Err("expected a mapping with `name` and `settings`".to_owned()),
    }
}

fn without_rules(mut node: Node) -> Node {
    if let Kind::Map(entries) = &mut node.kind {
        entries.retain(|entry| !matches!(entry.key.as_str(), "merge_how" | "merge_type"));
    }
    node
}

fn has(options: &[String], names: &[&str]) -> bool {
    options
        .iter()
        .any(|option| names.contains(&option.as_str()))
}

/// cloud-init's `LookupMerger`.
fn merge(old: Node, new: Node, rules: &MergeRules) -> Node {
    let region = old.region.clone();
    let kind = match (old.kind, new.kind) {
        (Kind::Map(old), kind) => match (rules.options(Rule::Dict), kind) {
            (Some(options), Kind::Map(new)) => Kind::Map(merge_maps(old, new, options, rules)),
            _ => Kind::Map(old),
        },
        (Kind::Seq(old), kind) => match (rules.options(Rule::List), kind) {
            (Some(options), Kind::Seq(new)) => Kind::Seq(merge_lists(old, new, options, rules)),
            (Some(options), other) if !has(options, &["append", "prepend", "no_replace"]) => other,
            _ => Kind::Seq(old),
        },
        (Kind::Scalar { text, style }, kind) => {
            let old = Kind::Scalar { text, style };
            match rules.options(Rule::Str).filter(|_| is_text(&old)) {
                Some(options) if has(options, &["append"]) => appended(old, kind),
                Some(_) => kind,
                None => old,
            }
        }
    };
    Node { region, kind }
}

fn appended(old: Kind, new: Kind) -> Kind {
    match (old, new) {
        (Kind::Scalar { text: old, .. }, Kind::Scalar { text, .. }) => Kind::Scalar {
            text: old + &text,
            style: Style::Quoted,
        },
        (_, new) => new,
    }
}

/// Merges values of one place, where the options of the collection say so.
fn descends(new: &Node, options: &[String], dicts: bool) -> bool {
    match &new.kind {
        Kind::Seq(_) => has(options, &["recurse_array", "recurse_list"]),
        Kind::Map(_) => dicts,
        Kind::Scalar { .. } => is_text(&new.kind) && has(options, &["recurse_str"]),
    }
}

fn merge_maps(
    mut old: Vec<Entry>,
    new: Vec<Entry>,
    options: &[String],
    rules: &MergeRules,
) -> Vec<Entry> {
    let replaces = has(options, &["replace"]);
    for entry in new {
        let Some(at) = old.iter().position(|one| one.key == entry.key) else {
            old.push(entry);
            continue;
        };
        if entry.value.is_null() && has(options, &["allow_delete"]) {
            old.remove(at);
        } else if replaces {
            old[at].value = entry.value;
        } else if descends(&entry.value, options, true) {
            let value = std::mem::take(&mut old[at].value);
            old[at].value = merge(value, entry.value, rules);
        }
    }
    old
}

fn merge_lists(
    mut old: Vec<Item>,
    mut new: Vec<Item>,
    options: &[String],
    rules: &MergeRules,
) -> Vec<Item> {
    let methods = ["append", "prepend", "replace", "no_replace"];
    let method = methods.into_iter().find(|method| has(options, &[method]));
    let all = match method.unwrap_or("replace") {
        "append" => {
            old.extend(new);
            old
        }
        "prepend" => {
            new.extend(old);
            new
        }
        "no_replace" => old,
        // Only as far as both go.
        _ => {
            for (place, item) in old.iter_mut().zip(new) {
                place.value = if descends(&item.value, options, has(options, &["recurse_dict"])) {
                    merge(std::mem::take(&mut place.value), item.value, rules)
                } else {
                    item.value
                };
            }
            old
        }
    };
    let numbered = all.into_iter().enumerate();
    numbered
        .map(|(index, item)| Item { index, ..item })
        .collect()
}

/// Whether a reader takes the scalar for text.
fn is_text(kind: &Kind) -> bool {
    match kind {
        Kind::Scalar {
            text,
            style: Style::Plain,
        } => matches!(scalar::resolve(text), Plain::Text),
        Kind::Scalar { style, .. } => *style == Style::Quoted,
        _ => false,
    }
}

fn map(entries: Vec<Entry>) -> Node {
    Node {
        kind: Kind::Map(entries),
        ..Node::default()
    }
}

/// Flow style. A bare word stays bare, because its reader decides what it is.
fn write(out: &mut String, node: &Node) {
    match &node.kind {
        Kind::Scalar { text, style } => match style {
            Style::Plain if text.is_empty() => out.push_str("null"),
            Style::Plain if is_bare(text) => out.push_str(text),
            Style::Plain | Style::Quoted => quoted(out, text),
            Style::Binary => {
                out.push_str("!!binary ");
                quoted(out, text);
            }
        },
        Kind::Seq(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write(out, &item.value);
            }
            out.push(']');
        }
        Kind::Map(entries) => {
            out.push('{');
            for (i, entry) in entries.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ",\n" });
                quoted(out, &entry.key);
                out.push_str(": ");
                write(out, &entry.value);
            }
            out.push('}');
        }
    }
}

fn is_bare(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.+~/-".contains(&b);
    text.bytes().all(good) && !text.starts_with('-') || text.parse::<f64>().is_ok()
}
