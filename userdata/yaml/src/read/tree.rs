//! Builds a tree with positions from the events of the YAML parser.
//!
//! Scalars keep their text: `de` interprets it, because it has the target type.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

use super::marks::Marks;
use super::scalar;
use crate::report::region::{Fault, Region};

/// Nodes one text may expand to, aliases counted at every use: a document is some thousands.
const MAX_NODES: usize = 250_000;
/// Deserialising recurses, so depth is stack.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) region: Region,
    pub(crate) kind: Kind,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bare: readers may have taken it for a number, a boolean, a date.
    Plain,
    /// Quoted, or a block: text whatever it looks like.
    Quoted,
    /// Base64 under `!!binary`.
    Binary,
}

impl Style {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Style::Plain => "plain",
            Style::Quoted => "quoted",
            Style::Binary => "binary",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar { text: String, style: Style },
    Seq(Vec<Item>),
    Map(Vec<Entry>),
}

/// `index` is the place in the text: the list may have lost items to error recovery.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) index: usize,
    pub(crate) value: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) region: Region,
    pub(crate) value: Node,
}

impl Default for Node {
    fn default() -> Self {
        Node::null(Region::default())
    }
}

impl Node {
    fn null(region: Region) -> Node {
        Node {
            region,
            kind: Kind::Scalar {
                text: String::new(),
                style: Style::Plain,
            },
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, style: Style::Plain } if scalar::is_null(text))
    }

    fn weight(&self) -> usize {
        1 + match &self.kind {
            Kind::Scalar { .. } => 0,
            Kind::Seq(items) => items.iter().map(|item| item.value.weight()).sum(),
            Kind::Map(entries) => entries.iter().map(|entry| 1 + entry.value.weight()).sum(),
        }
    }
}

/// The one document in `text`. `Err` is a text that is no YAML; `faults` is YAML that we refuse,
/// with a tree that can still be checked for more.
pub(crate) fn build(text: &str, faults: &mut Vec<Fault>) -> Result<Node, Fault> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        marks: Marks::new(text),
        anchors: HashMap::new(),
        nodes: 0,
        faults,
    };
    builder.document()
}

struct Builder<'t, 'f> {
    parser: Parser<'t, StrInput<'t>>,
    marks: Marks<'t>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    faults: &'f mut Vec<Fault>,
}

impl<'t> Builder<'t, '_> {
    fn next(&mut self) -> Result<(Event<'t>, Region), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, mark))) => Ok((event, self.marks.region(&mark))),
            Some(Err(error)) => Err(self.marks.scan_error(&error)),
            None => Ok((Event::StreamEnd, self.marks.end())),
        }
    }

    fn document(&mut self) -> Result<Node, Fault> {
        let mut root = None;
        loop {
            let (event, region) = self.next()?;
            match event {
                Event::StreamEnd => {
                    return Ok(root.unwrap_or_else(|| Node::null(self.marks.end())));
                }
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(Fault {
                        region,
                        message: "a second document starts here".to_owned(),
                        help: Some("keep one document in one file".to_owned()),
                    });
                }
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                event => root = Some(self.node(event, region, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, region: Region, depth: usize) -> Result<Node, Fault> {
        self.count(1, &region)?;
        if depth > MAX_DEPTH {
            return Err(Fault {
                region,
                message: format!("nested deeper than {MAX_DEPTH} levels"),
                help: None,
            });
        }
        let (anchor, mut node) = match event {
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Fault {
                        region,
                        message: "an alias to a node that contains it".to_owned(),
                        help: None,
                    });
                };
                self.count(node.weight(), &region)?;
                // The alias keeps the positions of its anchor, where the text can be corrected.
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let empty = region.bytes.is_empty();
                let plain = style == ScalarStyle::Plain;
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let mut text = text.into_owned();
                if (plain && empty) || (block && self.marks.is_empty_block(&text, &region)) {
                    text.clear();
                } else if block && self.marks.is_cut_off(&region) && text.ends_with('\n') {
                    text.pop();
                }
                let style = if plain { Style::Plain } else { Style::Quoted };
                let style = self.tagged(tag.as_deref(), &region, style, true);
                (
                    anchor,
                    Node {
                        region,
                        kind: Kind::Scalar { text, style },
                    },
                )
            }
            Event::SequenceStart(anchor, tag) => {
                self.tagged(tag.as_deref(), &region, Style::Quoted, false);
                (anchor, self.sequence(region, depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                self.tagged(tag.as_deref(), &region, Style::Quoted, false);
                (anchor, self.mapping(region, depth)?)
            }
            _ => (0, Node::null(region)),
        };
        if let Kind::Map(entries) = &mut node.kind {
            self.merge(entries);
        }
        if anchor > 0 {
            self.count(node.weight(), &node.region)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, mut region: Region, depth: usize) -> Result<Node, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                region.bytes.end = region.bytes.end.max(at.bytes.end);
                return Ok(Node {
                    region,
                    kind: Kind::Seq(items),
                });
            }
            let value = self.node(event, at, depth + 1)?;
            items.push(Item {
                index: items.len(),
                value,
            });
        }
    }

    fn mapping(&mut self, mut region: Region, depth: usize) -> Result<Node, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                region.bytes.end = region.bytes.end.max(at.bytes.end);
                return Ok(Node {
                    region,
                    kind: Kind::Map(entries),
                });
            }
            let key = self.node(event, at, depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            let Kind::Scalar { text, .. } = key.kind else {
                self.faults.push(Fault {
                    region: key.region,
                    message: "a key must be a single word or text".to_owned(),
                    help: None,
                });
                continue;
            };
            if let Some(first) = lines.get(&text) {
                self.faults.push(Fault {
                    region: key.region,
                    message: format!("duplicate key `{text}`"),
                    help: Some(format!(
                        "it is first set in line {first}; keep one of the two"
                    )),
                });
                continue;
            }
            lines.insert(text.clone(), key.region.line);
            entries.push(Entry {
                key: text,
                region: key.region,
                value,
            });
        }
    }

    /// `<<: *defaults`, which YAML 1.1 readers merge: keys of the mapping itself win.
    fn merge(&mut self, entries: &mut Vec<Entry>) {
        let Some(at) = entries.iter().position(|entry| entry.key == "<<") else {
            return;
        };
        let sources = match &entries[at].value.kind {
            Kind::Map(_) => vec![entries[at].value.clone()],
            Kind::Seq(items) => items.iter().map(|item| item.value.clone()).collect(),
            Kind::Scalar { .. } => return,
        };
        entries.remove(at);
        let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        for source in sources {
            if let Kind::Map(more) = source.kind {
                entries.extend(
                    more.into_iter()
                        .filter(|entry| known.insert(entry.key.clone())),
                );
            }
        }
    }

    /// The style of the scalar under `tag`. Only the tags of YAML's own types are known.
    fn tagged(&mut self, tag: Option<&Tag>, region: &Region, style: Style, scalar: bool) -> Style {
        let Some(tag) = tag else { return style };
        let core = tag.is_yaml_core_schema();
        match tag.suffix.as_str() {
            "str" if core && scalar => return Style::Quoted,
            "binary" if core && scalar => return Style::Binary,
            "int" | "float" | "bool" | "null" if core && scalar => return Style::Plain,
            "seq" | "map" if core && !scalar => return style,
            _ => {}
        }
        let name = if core {
            format!("!!{}", tag.suffix)
        } else {
            tag.to_string()
        };
        self.faults.push(Fault {
            region: region.clone(),
            message: format!("the tag `{name}` is not supported"),
            help: None,
        });
        style
    }

    fn count(&mut self, nodes: usize, region: &Region) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(Fault {
            region: region.clone(),
            message: format!("the text expands to more than {MAX_NODES} values"),
            help: Some("aliases count at every use".to_owned()),
        })
    }
}
