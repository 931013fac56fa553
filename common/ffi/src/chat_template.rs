//! Chat templates: Jinja with the environment transformers gives them, with limits on work and output.

use std::fmt::Write as _;
use std::io;
use std::ptr;

use chrono::{DateTime, Utc};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use crate::error::{guard, Code, Failure, FfiError, Output, Slice};
use crate::python_text;

const TEMPLATE_NAME: &str = "chat_template";

/// Mirrors SboraFfiChatOptions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChatOptions {
    pub fuel: u64,
    pub max_output_bytes: u64,
    pub has_time: bool,
    pub unix_seconds: i64,
}

/// Mirrors SboraFfiChatInput.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChatInput {
    pub messages_json: Slice,
    pub extra_json: Slice,
    pub bos_token: Slice,
    pub eos_token: Slice,
    pub add_generation_prompt: bool,
}

const OUR_VARIABLES: [&str; 4] = ["messages", "add_generation_prompt", "bos_token", "eos_token"];

fn bad_input(message: String) -> Failure {
    Failure::new(Code::InvalidArgument, "CHAT_INPUT_INVALID", message)
}

impl ChatInput {
    /// The template's variables. serde_json refuses JSON nested deeper than 128 levels.
    unsafe fn context(&self) -> Result<Json, Failure> {
        let (messages_json, extra_json, bos, eos) = unsafe {
            (
                self.messages_json.bytes(),
                self.extra_json.bytes(),
                self.bos_token.text("bos_token")?,
                self.eos_token.text("eos_token")?,
            )
        };
        let messages: Json =
            serde_json::from_slice(messages_json).map_err(|e| bad_input(format!("chat messages: {e}")))?;
        if !messages.is_array() {
            return Err(bad_input("chat messages must be a JSON array of messages".to_owned()));
        }
        let extra: Json = serde_json::from_slice(extra_json)
            .map_err(|e| bad_input(format!("extra variables of the chat template: {e}")))?;
        let Json::Object(mut context) = extra else {
            return Err(bad_input("the extra variables of a chat template must be a JSON object".to_owned()));
        };
        if let Some(name) = OUR_VARIABLES.into_iter().find(|name| context.contains_key(*name)) {
            return Err(bad_input(format!("the extra variables of a chat template may not set {name:?}")));
        }
        context.insert("messages".to_owned(), messages);
        context.insert("add_generation_prompt".to_owned(), self.add_generation_prompt.into());
        context.insert("bos_token".to_owned(), bos.into());
        context.insert("eos_token".to_owned(), eos.into());
        Ok(Json::Object(context))
    }
}

pub struct ChatTemplate {
    environment: Environment<'static>,
    options: ChatOptions,
}

/// `{% generation %}…{% endgeneration %}` marks the assistant's part and prints its body: here a block that is
/// always taken, with the same trim marks.
fn replace_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag_on) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag_on.find("%}") else {
            out.push_str(tag_on);
            return out;
        };
        let (tag, after) = tag_on.split_at(end + 2);
        let inner = &tag[2..tag.len() - 2];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn strftime(options: &ChatOptions, format: &str) -> Result<String, Error> {
    let now = if options.has_time {
        DateTime::<Utc>::from_timestamp(options.unix_seconds, 0)
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "strftime_now: the fixed time is out of range"))?
    } else {
        Utc::now()
    };
    let mut out = String::new();
    write!(out, "{}", now.format(format))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: bad format {format:?}")))?;
    Ok(out)
}

impl ChatTemplate {
    fn new(source: &str, options: ChatOptions) -> Result<Self, Failure> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(options.fuel));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _state, value: &Value| {
            if let Some(text) = value.as_str() {
                return out.write_str(text).map_err(Error::from);
            }
            out.write_str(&python_text::str_value(value)?).map_err(Error::from)
        });
        environment.add_filter("tojson", python_text::tojson);
        environment.add_filter("string", |value: Value| python_text::str_value(&value));
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message).with_source(RaisedByTemplate))
        });
        environment.add_function("strftime_now", move |format: &str| strftime(&options, format));
        environment.add_template_owned(TEMPLATE_NAME, replace_generation_tags(source)).map_err(|e| {
            Failure::new(Code::InvalidArgument, "CHAT_TEMPLATE_SYNTAX", format!("chat template: {e:#}"))
        })?;
        Ok(Self { environment, options })
    }

    fn render(&self, context: &Json) -> Result<Vec<u8>, Failure> {
        let template = self
            .environment
            .get_template(TEMPLATE_NAME)
            .map_err(|e| Failure::new(Code::Internal, "CHAT_TEMPLATE_LOST", e.to_string()))?;
        let mut writer = LimitedWriter { bytes: Vec::new(), limit: self.options.max_output_bytes, exceeded: false };
        let result = template.render_captured_to(context, &mut writer).map(|_| ());
        if writer.exceeded {
            return Err(Failure::new(
                Code::ResourceExhausted,
                "CHAT_TEMPLATE_OUTPUT_LIMIT",
                format!("the chat template writes more than {} bytes", self.options.max_output_bytes),
            ));
        }
        result.map_err(|e| self.failure(&e))?;
        Ok(writer.bytes)
    }

    fn failure(&self, error: &Error) -> Failure {
        let mut chain: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = chain {
            if let Some(e) = cause.downcast_ref::<Error>() {
                if e.kind() == ErrorKind::OutOfFuel {
                    return Failure::new(
                        Code::ResourceExhausted,
                        "CHAT_TEMPLATE_FUEL_LIMIT",
                        format!("the chat template needs more than {} steps", self.options.fuel),
                    );
                }
                if std::error::Error::source(e).is_some_and(|s| s.is::<RaisedByTemplate>()) {
                    let text = e.detail().unwrap_or("no message").to_owned();
                    return Failure::new(
                        Code::InvalidArgument,
                        "CHAT_TEMPLATE_RAISED",
                        format!("the chat template refuses the input: {text}"),
                    );
                }
            }
            chain = cause.source();
        }
        Failure::new(Code::InvalidArgument, "CHAT_TEMPLATE_FAILED", format!("chat template: {error:#}"))
    }
}

/// Marks errors of `raise_exception`, the template's own refusal of its input.
#[derive(Debug)]
struct RaisedByTemplate;

impl std::fmt::Display for RaisedByTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raise_exception")
    }
}

impl std::error::Error for RaisedByTemplate {}

struct LimitedWriter {
    bytes: Vec<u8>,
    limit: u64,
    exceeded: bool,
}

impl io::Write for LimitedWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() as u64 + data.len() as u64 > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// # Safety
/// Pointers are valid; `*out` receives a handle for `sbora_ffi_chat_template_free`.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_chat_template_new(
    source: Slice,
    options: ChatOptions,
    out: *mut *mut ChatTemplate,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        *out = ptr::null_mut();
        guard(error, || {
            let template = ChatTemplate::new(source.text("the chat template")?, options)?;
            *out = Box::into_raw(Box::new(template));
            Ok(())
        })
    }
}

/// # Safety
/// `template` comes from `sbora_ffi_chat_template_new`, or is null.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_chat_template_free(template: *mut ChatTemplate) {
    if !template.is_null() {
        drop(unsafe { Box::from_raw(template) });
    }
}

///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn sbora_ffi_chat_template_render(
    template: *const ChatTemplate,
    input: *const ChatInput,
    out: Output,
    error: *mut FfiError,
) -> i32 {
    unsafe {
        guard(error, || {
            let text = (*template).render(&(*input).context()?)?;
            out.write(&text);
            Ok(())
        })
    }
}
