//! Reads a file of YAML documents as the apiserver's reader does, with the place of every value.
//!
//! In a mapping the last of equal keys counts, and a key of any type becomes text, as
//! sigs.k8s.io/yaml makes JSON of YAML.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::Value;

use super::scalar;

/// A position in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A mistake, or a hint, at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// A file's documents without empty ones, and what a person should know about them.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// With the document's number in the file, from 1.
    pub(crate) documents: Vec<(usize, Node)>,
    pub(crate) hints: Vec<Fault>,
}

/// Reading recurses; a manifest has at most some 50 levels.
const DEPTH: usize = 200;
/// Nodes of one file with every use of an alias.
const NODES: usize = 500_000;

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub(crate) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(Value::Null))
    }

    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => items.iter().map(Node::value).collect(),
            Kind::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, node)| (key.clone(), node.value()));
                Value::Object(entries.collect())
            }
        }
    }
}

pub(crate) fn read(text: &str) -> Result<File, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        text,
        anchors: HashMap::new(),
        nodes: 0,
        hints: Vec::new(),
    };
    let mut documents = Vec::new();
    let mut number = 0;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => break,
            (Event::DocumentStart(_), _) => {
                number += 1;
                reader.anchors.clear();
            }
            (Event::StreamStart | Event::DocumentEnd | Event::Nothing, _) => {}
            (event, span) => {
                let node = reader.node(event, span, 0)?;
                if !node.is_null() {
                    documents.push((number, node));
                }
            }
        }
    }
    Ok(File {
        documents,
        hints: reader.hints,
    })
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    hints: Vec<Fault>,
}

fn place(span: &Span) -> Place {
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

fn fault<T>(place: Place, text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault {
        place,
        text: text.into(),
    })
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                let (line, column) = (error.marker().line(), error.marker().col() + 1);
                let found = self
                    .text
                    .lines()
                    .nth(line.saturating_sub(1))
                    .unwrap_or_default();
                let mut text = format!("not YAML: {}", error.info());
                if ["{{", "{%", "<no value>"]
                    .iter()
                    .any(|mark| found.contains(mark))
                {
                    text.push_str(TEMPLATE);
                } else if found.starts_with('\t') || found.trim_start_matches(' ').starts_with('\t')
                {
                    text.push_str("; YAML is indented by spaces, not by tabs");
                }
                fault(Place { line, column }, text)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Fault> {
        let place = place(&span);
        self.nodes += 1;
        if depth > DEPTH || self.nodes > NODES {
            return fault(place, "it is nested too deeply or too large");
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (
                Kind::Scalar(self.scalar(&text, style, tag.as_deref(), &span)?),
                anchor,
            ),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return fault(place, "an alias without an anchor before it");
                };
                let node = node.clone();
                self.nodes += weight(&node);
                return Ok(node);
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Kind::List(items), anchor)
            }
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            _ => return fault(place, "not YAML: a value is missing"),
        };
        let node = Node { place, kind };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Fault> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let plain = match &event {
                Event::Scalar(text, ScalarStyle::Plain, ..) => Some(text.to_string()),
                _ => None,
            };
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                match value.kind {
                    Kind::List(items) => merged.extend(items),
                    _ => merged.push(value),
                }
                continue;
            }
            let text = match &key.kind {
                Kind::Scalar(Value::String(text)) => text.clone(),
                Kind::Scalar(value @ (Value::Bool(_) | Value::Number(_))) => {
                    let text = value.to_string();
                    if let Some(plain) = plain.filter(|plain| *plain != text) {
                        let hint = format!(
                            "the key `{plain}` is `{text}` to Kubernetes; quote it if it is text"
                        );
                        self.hint(key.place, hint);
                    }
                    text
                }
                Kind::Scalar(_) => return fault(key.place, "a key is empty"),
                _ => return fault(key.place, format!("a key is a list or a mapping{TEMPLATE}")),
            };
            match entries.iter_mut().find(|(known, _)| *known == text) {
                Some((_, known)) => {
                    self.hints.push(Fault {
                        place: key.place,
                        text: format!(
                            "the key `{text}` stands twice in one mapping; the last one counts"
                        ),
                    });
                    *known = value;
                }
                None => entries.push((text, value)),
            }
        }
        for node in merged {
            let Kind::Map(more) = node.kind else {
                return fault(node.place, "`<<` takes a mapping");
            };
            for (key, value) in more {
                if entries.iter().all(|(known, _)| *known != key) {
                    entries.push((key, value));
                }
            }
        }
        Ok(Kind::Map(entries))
    }

    fn hint(&mut self, place: Place, text: String) {
        self.hints.push(Fault { place, text });
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<Value, Fault> {
        let core = tag
            .filter(|tag| tag.is_yaml_core_schema())
            .map(|tag| tag.suffix.as_str());
        let string = |text: &str| Ok(Value::String(text.to_owned()));
        match (style, core) {
            (_, Some("binary")) => {
                use base64::Engine as _;
                let bare: String = text.split_whitespace().collect();
                let bytes = base64::engine::general_purpose::STANDARD.decode(bare).ok();
                match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                    Some(text) => Ok(Value::String(text)),
                    None => fault(place(span), "`!!binary` is no base64 of a text"),
                }
            }
            (_, Some("str")) => string(text),
            (ScalarStyle::Plain, None) if tag.is_some() => string(text),
            (ScalarStyle::Plain, _) => match scalar::resolve(text) {
                Ok(value) => Ok(value),
                Err(why) => fault(place(span), format!("`{text}`: {why}")),
            },
            (ScalarStyle::Literal | ScalarStyle::Folded, _) => string(self.block(text, span)),
            _ => string(text),
        }
    }

    /// The parser adds a line break to an empty block, and to one that the text's end cuts off.
    fn block<'s>(&self, text: &'s str, span: &Span) -> &'s str {
        let after = self.text.lines().nth(span.end.line().saturating_sub(1));
        let cut = !self.text.ends_with('\n')
            && after.is_none_or(|_| span.end.line() >= self.text.lines().count());
        if cut {
            text.strip_suffix('\n').unwrap_or(text)
        } else {
            text
        }
    }
}

const TEMPLATE: &str = "; a template is left in this file: render it before packing \
    (`helm template`), or write the value";

fn weight(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Scalar(_) => 0,
        Kind::List(items) => items.iter().map(weight).sum(),
        Kind::Map(entries) => entries.iter().map(|(_, node)| weight(node)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        let file = read(text).expect("valid YAML");
        file.documents
            .iter()
            .map(|(_, node)| node.value())
            .collect()
    }

    #[test]
    fn documents_are_read_as_the_apiserver_reads_them() {
        assert_eq!(
            values("# x\n---\na: [=, 0644]\non: 1\na: 2\n---\n---\nb: |\n  ---\n  x\n"),
            [json!({"a": 2, "true": 1}), json!({"b": "---\nx\n"})]
        );
        assert_eq!(
            values("x: &x {a: 1, b: 2}\nz: {<<: *x, b: 3}\n"),
            [json!({"x": {"a": 1, "b": 2}, "z": {"b": 3, "a": 1}})]
        );
        assert_eq!(values("a: |\n  cut"), [json!({"a": "cut"})]);
        assert_eq!(
            values("a: |\r\n  x\r\nb: 'q'\r\n"),
            [json!({"a": "x\n", "b": "q"})]
        );
    }

    #[test]
    fn faults_have_their_place() {
        for (text, line, words) in [
            ("a: 1\n---\nb: {{ .X }}\n", 3, "template"),
            ("a: {{ .Values.image }}:v1\n", 1, "template"),
            ("a:\n\tb: 1\n", 2, "tabs"),
            ("a: b: c\n", 1, "not YAML"),
            ("a: *nothing\n", 1, ""),
        ] {
            let fault = read(text).expect_err(text);
            assert_eq!(fault.place.line, line, "{text}: {fault:?}");
            assert!(fault.text.contains(words), "{text}: {fault:?}");
        }
    }
}
