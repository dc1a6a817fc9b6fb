//! `## template: jinja`: user-data with values of the instance filled in, as Cluster API sends it.
//!
//! cloud-init leaves `CI_MISSING_JINJA_VAR` in the text for a value that it does not have; here that
//! is an error.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value, json};

use yaml::{Diagnostic, Diagnostics, Severity};

/// What a template can name: `v1.*`, `ds.meta_data.*`, and the keys of `v1` by themselves.
#[derive(Debug, Clone, Default)]
pub struct Variables(Value);

/// Steps of a template's program; a loop in a loop must end.
const FUEL: u64 = 1_000_000;

impl Variables {
    /// For an instance with this `meta-data`.
    pub fn new(meta_data: &Value) -> Variables {
        let meta = with_underscores(meta_data);
        let text = |key: &str| meta.get(key).and_then(Value::as_str);
        let hostname = text("local_hostname").or_else(|| text("hostname"));
        let keys = meta.get("public_keys").cloned().unwrap_or(json!([]));
        let mut v1 = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                v1.insert(name.to_owned(), value);
            }
        };
        let cloud = text("cloud_name").unwrap_or("nocloud");
        set("cloud_name", Some(json!(cloud)));
        set("cloud_id", Some(json!(cloud)));
        set("platform", Some(json!(text("platform").unwrap_or(cloud))));
        set(
            "instance_id",
            Some(json!(text("instance_id").unwrap_or("nocloud"))),
        );
        set("local_hostname", hostname.map(|name| json!(name)));
        set("region", text("region").map(|region| json!(region)));
        set(
            "availability_zone",
            text("availability_zone").map(|zone| json!(zone)),
        );
        set("public_ssh_keys", Some(keys));
        set("distro", Some(json!("debian")));
        set("distro_release", Some(json!("trixie")));
        set("distro_version", Some(json!("13")));
        set("machine", Some(json!(std::env::consts::ARCH)));
        let mut all = v1.clone();
        all.insert("v1".to_owned(), Value::Object(v1));
        all.insert("ds".to_owned(), json!({ "meta_data": meta }));
        Variables(Value::Object(all))
    }
}

/// Each key with `-` also with `_`, which a template can write behind a dot.
fn with_underscores(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut all = Map::new();
            for (key, value) in map {
                let value = with_underscores(value);
                if key.contains('-') {
                    all.insert(key.replace('-', "_"), value.clone());
                }
                all.insert(key.clone(), value);
            }
            Value::Object(all)
        }
        Value::Array(items) => items.iter().map(with_underscores).collect(),
        other => other.clone(),
    }
}

pub(super) fn is_template(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    let rest = first.strip_prefix("##").map(str::trim_start);
    rest.and_then(|rest| rest.strip_prefix("template:"))
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("jinja"))
}

/// From the line behind the header.
pub(super) fn without_header(text: &str) -> &str {
    text.split_once('\n')
        .map_or("", |(_, rest)| rest.trim_start())
}

/// The rendered text. It keeps the header, so that lines keep their numbers.
pub(super) fn render(name: &str, text: &str, variables: &Variables) -> Result<String, Diagnostics> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // As cloud-init has Jinja.
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).keep_trailing_newline(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(FUEL));
    let context = minijinja::Value::from(Serde(&variables.0));
    environment.render_str(text, context).map_err(|error| {
        let at = error.line().map(|line| format!("{name}:{line}"));
        // The details may quote the text, which holds keys.
        let (message, help) = match error.kind() {
            ErrorKind::UndefinedError => (
                "the template names a value that this instance does not have",
                "known are `v1.…` and `ds.meta_data.…` with the keys of the meta-data; \
                 `| default(…)` gives another value",
            ),
            ErrorKind::SyntaxError => ("the template is not valid Jinja", "see the line"),
            ErrorKind::UnknownFilter | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod => (
                "the template uses a filter or function that is not known here",
                "send the rendered `#cloud-config`",
            ),
            ErrorKind::OutOfFuel => ("the template does not end", "send the rendered text"),
            _ => (
                "the template cannot be rendered",
                "send the rendered `#cloud-config`",
            ),
        };
        let name = at.as_deref().unwrap_or(name);
        Diagnostic::new(Severity::Error, name, message)
            .with_help(help)
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Result<String, String> {
        let meta = json!({"instance-id": "i-1", "local-hostname": "n0", "a": {"b-c": [1, 2]}});
        let text = format!("## template: jinja\n{text}");
        let rendered = render("user-data", &text, &Variables::new(&meta));
        rendered
            .map(|text| without_header(&text).to_owned())
            .map_err(|found| found.to_string())
    }

    #[test]
    fn names_of_cloud_init_are_known() {
        for (text, expected) in [
            ("{{ ds.meta_data.local_hostname }}", "n0"),
            ("{{ ds['meta_data']['local-hostname'] }}", "n0"),
            ("{{ v1.local_hostname }}/{{ instance_id }}", "n0/i-1"),
            ("{{ ds.meta_data.a.b_c[1] }}", "2"),
            ("{% if v1.region is defined %}\nx\n{% endif %}\ny\n", "y\n"),
            ("{{ v1.region | default('none') }}\n", "none\n"),
            (
                "{% for x in ds.meta_data.a.b_c %}{{ x }},{% endfor %}",
                "1,2,",
            ),
            ("{% raw %}{{ kept }}{% endraw %}", "{{ kept }}"),
        ] {
            assert_eq!(rendered(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_undefined_is_an_error_with_its_line() {
        for text in [
            "a\nb: {{ ds.meta_data.hunter2 }}",
            "a\nb: {{ hunter2 }}",
            "a\nb: {{ v1.hunter2.x }}",
            "a\nb: {{ 'x' | hunter2 }}",
            "a\nb: {{ hunter2",
            "a\n{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        ] {
            let error = rendered(text).expect_err(text);
            assert!(error.starts_with("user-data:3: error: "), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn header_is_found_as_cloud_init_finds_it() {
        for header in [
            "## template: jinja",
            "## template:jinja",
            "##template: Jinja ",
        ] {
            assert!(
                is_template(&format!("{header}\n#cloud-config\n")),
                "{header}"
            );
        }
        assert!(!is_template("# template: jinja\n"));
    }
}
