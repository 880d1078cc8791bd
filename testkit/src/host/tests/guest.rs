//! Guests in WebAssembly's text format, generated from a list of steps.

use std::fmt::Write as _;

/// What a guest does when it is called, whatever the operation is.
pub enum Step {
    /// Calls the host: binding, namespace, operation, payload.
    Call(&'static str, &'static str, &'static str, String),
    /// Fails with the error text of the last host call.
    FailWithHostError,
    /// Fails with the response of the last host call.
    FailWithHostResponse,
    /// Fails with the request that it got.
    FailWithRequest,
    /// Responds with a text.
    Respond(String),
    /// Fails with a text.
    Fail(&'static str),
    /// Runs into an `unreachable` instruction, as a panic does.
    Trap,
    /// Never ends.
    Loop,
}

/// Where requests and host responses are put; constants stay below.
const SCRATCH: usize = 1 << 20;

const IMPORTS: &str = r#"
  (import "wapc" "__guest_request" (func $guest_request (param i32 i32)))
  (import "wapc" "__guest_response" (func $guest_response (param i32 i32)))
  (import "wapc" "__guest_error" (func $guest_error (param i32 i32)))
  (import "wapc" "__host_call" (func $host_call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wapc" "__host_response_len" (func $host_response_len (result i32)))
  (import "wapc" "__host_response" (func $host_response (param i32)))
  (import "wapc" "__host_error_len" (func $host_error_len (result i32)))
  (import "wapc" "__host_error" (func $host_error (param i32)))
  (memory (export "memory") 64)
  (func (export "wapc_init"))
"#;

/// A module that takes these steps. A call of the host that fails does not stop it.
pub fn guest(steps: &[Step]) -> String {
    module(&mut Data::default(), "", steps)
}

/// The same, but it has a protocol version and valid settings, as every real policy.
pub fn policy(steps: &[Step]) -> String {
    let mut data = Data::default();
    let mut start = String::new();
    // The guest is told the length of the operation's name, which is enough to tell them apart.
    for (operation, response) in [
        ("protocol_version", r#""v1""#),
        ("validate_settings", r#"{"valid":true}"#),
    ] {
        let _ = writeln!(
            start,
            "(if (i32.eq (local.get $operation) (i32.const {}))
               (then (call $guest_response {}) (return (i32.const 1))))",
            operation.len(),
            data.add(response)
        );
    }
    module(&mut data, &start, steps)
}

fn module(data: &mut Data, start: &str, steps: &[Step]) -> String {
    let mut body = start.to_owned();
    for step in steps {
        let _ = match step {
            Step::Call(binding, namespace, operation, payload) => {
                let arguments = [*binding, *namespace, *operation, payload]
                    .map(|text| data.add(text))
                    .join(" ");
                writeln!(body, "(drop (call $host_call {arguments}))")
            }
            Step::FailWithHostError => writeln!(
                body,
                "(call $host_error (i32.const {SCRATCH}))
                 (call $guest_error (i32.const {SCRATCH}) (call $host_error_len)) (return (i32.const 0))"
            ),
            Step::FailWithHostResponse => writeln!(
                body,
                "(call $host_response (i32.const {SCRATCH}))
                 (call $guest_error (i32.const {SCRATCH}) (call $host_response_len)) (return (i32.const 0))"
            ),
            Step::FailWithRequest => writeln!(
                body,
                "(call $guest_request (i32.const {}) (i32.const {SCRATCH}))
                 (call $guest_error (i32.const {SCRATCH}) (local.get $length)) (return (i32.const 0))",
                SCRATCH - 64
            ),
            Step::Respond(text) => writeln!(body, "(call $guest_response {})", data.add(text)),
            Step::Fail(text) => writeln!(
                body,
                "(call $guest_error {}) (return (i32.const 0))",
                data.add(text)
            ),
            Step::Trap => writeln!(body, "(unreachable)"),
            Step::Loop => writeln!(body, "(loop $again (br $again))"),
        };
    }
    format!(
        "(module {IMPORTS} {}
           (func (export \"__guest_call\") (param $operation i32) (param $length i32) (result i32)
             {body} (i32.const 1)))",
        data.segments
    )
}

/// A guest that accepts everything.
pub fn accepting() -> String {
    guest(&[Step::Respond(r#"{"accepted":true}"#.to_owned())])
}

#[derive(Default)]
struct Data {
    segments: String,
    end: usize,
}

impl Data {
    /// Stores a text and gives the instructions for its address and length.
    fn add(&mut self, text: &str) -> String {
        let start = self.end;
        self.end += text.len();
        assert!(self.end < SCRATCH - 64, "the constants are too long");
        let bytes = text.bytes().fold(String::new(), |mut bytes, byte| {
            let _ = write!(bytes, "\\{byte:02x}");
            bytes
        });
        let _ = writeln!(self.segments, "(data (i32.const {start}) \"{bytes}\")");
        format!("(i32.const {start}) (i32.const {})", text.len())
    }
}
