//! Builds a tree with positions from the events of the YAML parser.
//!
//! Scalars keep their text: `de` interprets it, because it has the target type.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

pub use super::node::Style;
pub(crate) use super::node::{Entry, Item, Kind, Node};

use super::input::{Counted, MAX_SEPARATORS, Separators};
use super::marks::Marks;
use crate::report::failure::named;
use crate::report::region::{Fault, Region};

/// Nodes one text may expand to, aliases counted at every use: a document is some thousands.
const MAX_NODES: usize = 250_000;
/// Bytes of text that anchors and aliases may copy: a short text must not fill the memory.
const MAX_COPIED: usize = 8 << 20;
/// Deserialising recurses, so depth is stack.
const MAX_DEPTH: usize = 64;
/// The reader stops after this many faults.
const MAX_FAULTS: usize = 100;
/// The limit of cloud-init's user-data, unpacked.
const MAX_TEXT: usize = 16 << 20;

/// The one document in `text`. `Err` is a text that is no YAML; `faults` is YAML that we refuse,
/// with a tree that can still be checked for more. With `redact` they name no key and tag.
pub(crate) fn build(text: &str, redact: bool, faults: &mut Vec<Fault>) -> Result<Node, Fault> {
    if text.len() > MAX_TEXT {
        return Err(Fault {
            region: Region::default(),
            message: format!("larger than {} MiB", MAX_TEXT >> 20),
            help: Some("keep large files out of it".to_owned()),
        });
    }
    let separators = Separators::default();
    let mut builder = Builder {
        parser: Parser::new(Counted::new(text, separators.clone())),
        separators,
        last: Region::default(),
        marks: Marks::new(text),
        anchors: HashMap::new(),
        nodes: 0,
        copied: 0,
        redact,
        faults,
    };
    builder.document()
}

struct Builder<'t, 'f> {
    parser: Parser<'t, Counted<'t>>,
    separators: Separators,
    /// The region of the last event.
    last: Region,
    marks: Marks<'t>,
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
    copied: usize,
    redact: bool,
    faults: &'f mut Vec<Fault>,
}

impl<'t> Builder<'t, '_> {
    fn next(&mut self) -> Result<(Event<'t>, Region), Fault> {
        let next = self.parser.next_event();
        if self.separators.are_too_many() {
            return Err(Fault {
                region: self.last.clone(),
                message: format!(
                    "the list or mapping behind this has more than {MAX_SEPARATORS} separators \
                     (`,`, `:`, `[`, `{{`)"
                ),
                help: None,
            });
        }
        self.separators.reset();
        match next {
            Some(Ok((event, mark))) => {
                let region = self.marks.region(&mark);
                self.last = region.clone();
                Ok((event, region))
            }
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
                let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
                    return Err(Fault {
                        region,
                        message: "an alias to a node that contains it".to_owned(),
                        help: None,
                    });
                };
                self.count_copy(&node, &region)?;
                let node = Node::clone(&node);
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
                let style = self.tagged(tag.as_deref(), &region, style, true)?;
                (
                    anchor,
                    Node {
                        region,
                        kind: Kind::Scalar { text, style },
                    },
                )
            }
            Event::SequenceStart(anchor, tag) => {
                self.tagged(tag.as_deref(), &region, Style::Quoted, false)?;
                (anchor, self.sequence(region, depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                self.tagged(tag.as_deref(), &region, Style::Quoted, false)?;
                (anchor, self.mapping(region, depth)?)
            }
            _ => (0, Node::null(region)),
        };
        if let Kind::Map(entries) = &mut node.kind {
            self.merge(entries);
        }
        if anchor > 0 {
            self.count_copy(&node, &node.region)?;
            self.anchors.insert(anchor, Rc::new(node.clone()));
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
                let message = "a key must be a single word or text".to_owned();
                self.fault(key.region, message, None)?;
                continue;
            };
            if let Some(first) = lines.get(&text) {
                let help = format!("it is first set in line {first}; keep one of the two");
                let message = named("duplicate key", &text, self.redact);
                self.fault(key.region, message, Some(help))?;
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
        if matches!(entries[at].value.kind, Kind::Scalar { .. }) {
            return;
        }
        let merged = entries.remove(at).value;
        let sources = match merged.kind {
            Kind::Seq(items) => items.into_iter().map(|item| item.value).collect(),
            _ => vec![merged],
        };
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
    fn tagged(
        &mut self,
        tag: Option<&Tag>,
        region: &Region,
        style: Style,
        scalar: bool,
    ) -> Result<Style, Fault> {
        let Some(tag) = tag else { return Ok(style) };
        let core = tag.is_yaml_core_schema();
        match tag.suffix.as_str() {
            "str" if core && scalar => return Ok(Style::Quoted),
            "binary" if core && scalar => return Ok(Style::Binary),
            "int" | "float" | "bool" | "null" if core && scalar => return Ok(Style::Plain),
            "seq" | "map" if core && !scalar => return Ok(style),
            _ => {}
        }
        let name = if core {
            format!("!!{}", tag.suffix)
        } else {
            tag.to_string()
        };
        let message = named("unsupported tag", &name, self.redact);
        self.fault(region.clone(), message, None)?;
        Ok(style)
    }

    /// Records a fault after which reading goes on.
    fn fault(
        &mut self,
        region: Region,
        message: String,
        help: Option<String>,
    ) -> Result<(), Fault> {
        let fault = Fault {
            region,
            message,
            help,
        };
        if self.faults.len() + 1 >= MAX_FAULTS {
            return Err(fault);
        }
        self.faults.push(fault);
        Ok(())
    }

    /// Counts a copy of `node`, before it is made.
    fn count_copy(&mut self, node: &Node, region: &Region) -> Result<(), Fault> {
        let (nodes, bytes) = node.weight();
        self.count(nodes, region)?;
        self.copied = self.copied.saturating_add(bytes);
        if self.copied <= MAX_COPIED {
            return Ok(());
        }
        Err(Fault {
            region: region.clone(),
            message: format!(
                "anchors and aliases copy more than {} MiB",
                MAX_COPIED >> 20
            ),
            help: Some("an alias counts with the whole text of its anchor".to_owned()),
        })
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
