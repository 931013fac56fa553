//! Values as Python would print them. Chat templates are written against Jinja2, where `{{ true }}` is `True` and
//! `tojson` is `json.dumps(ensure_ascii=False)` with its `", "` and `": "`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

/// `repr(str)`: single quotes unless only double quotes avoid an escape.
fn repr_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `repr(value)` for what a template can hold; anything else is printed as the engine does.
fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > 64 {
        return Err(Error::new(ErrorKind::InvalidOperation, "value is nested deeper than 64 levels"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// `str(value)`: what `{{ value }}` writes.
pub fn str_value(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map => repr(value, 0, &mut out)?,
        _ => out.push_str(&value.to_string()),
    }
    Ok(out)
}

struct JsonStyle {
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

fn json_string(text: &str, style: &JsonStyle, out: &mut String) {
    let quoted = Json::String(text.to_owned()).to_string();
    if !style.ensure_ascii {
        out.push_str(&quoted);
        return;
    }
    let mut units = [0u16; 2];
    for c in quoted.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

fn new_line(style: &JsonStyle, depth: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn dump(value: &Json, style: &JsonStyle, depth: usize, out: &mut String) {
    match value {
        Json::String(text) => json_string(text, style, out),
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                new_line(style, depth + 1, out);
                dump(item, style, depth + 1, out);
            }
            new_line(style, depth, out);
            out.push(']');
        }
        Json::Object(fields) if !fields.is_empty() => {
            let mut entries: Vec<_> = fields.iter().collect();
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(b.0));
            }
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                new_line(style, depth + 1, out);
                json_string(key, style, out);
                out.push_str(&style.key_separator);
                dump(item, style, depth + 1, out);
            }
            new_line(style, depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

const MAX_INDENT: usize = 16;

fn style_from(kwargs: &Kwargs) -> Result<JsonStyle, Error> {
    let indent_value: Option<Value> = kwargs.get("indent")?;
    let indent = match indent_value {
        None => None,
        Some(v) if v.is_none() || v.is_undefined() => None,
        Some(v) => match (v.as_str(), v.as_usize()) {
            (Some(text), _) if text.len() <= MAX_INDENT => Some(text.to_owned()),
            (None, Some(count)) if count <= MAX_INDENT => Some(" ".repeat(count)),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent must be at most 16")),
        },
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    Ok(JsonStyle {
        indent,
        item_separator,
        key_separator,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    })
}

/// The `tojson` filter as transformers defines it: `json.dumps`, no HTML escapes.
pub fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let style = style_from(&kwargs)?;
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "tojson: value is no JSON").with_source(e))?;
    let mut out = String::new();
    dump(&json, &style, 0, &mut out);
    Ok(Value::from(out))
}
