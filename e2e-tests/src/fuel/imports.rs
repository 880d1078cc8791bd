//! What a waPC guest imports: the functions of the waPC protocol, and the part of WASI that Rust programs use.
//!
//! Everything here is the same in every run: the clock stands still and random bytes are not random.

use std::sync::Arc;

use wasmtime_provider::wasmtime::{Caller, Extern, Linker, Memory, Result, format_err};

use super::cases::Case;

/// The name of a guest's memory.
pub const MEMORY: &str = "memory";
const WAPC: &str = wapc::HOST_NAMESPACE;
const WASI: &str = "wasi_snapshot_preview1";
/// WASI's error number for success.
const SUCCESS: i32 = 0;

/// The host's side of an instance.
pub struct Guest {
    case: Arc<Case>,
    seed: u8,
    /// What the host said to the guest's last call.
    host_answer: std::result::Result<Vec<u8>, String>,
    response: Option<Vec<u8>>,
    error: Option<Vec<u8>>,
}

impl Guest {
    /// The host's side of a fresh instance.
    pub fn new(case: Arc<Case>, seed: u8) -> Self {
        Self {
            case,
            seed,
            host_answer: Ok(Vec::new()),
            response: None,
            error: None,
        }
    }

    /// Why the guest failed, in its own words.
    pub fn error(&self) -> String {
        String::from_utf8_lossy(self.error.as_deref().unwrap_or_default()).into_owned()
    }

    /// What the guest answered.
    pub fn into_response(self) -> Option<Vec<u8>> {
        self.response
    }

    fn call(&mut self, namespace: &str, operation: &str, payload: &[u8]) -> i32 {
        let answer = self.case.answer(namespace, operation, payload);
        self.host_answer = answer.map(<[u8]>::to_vec).ok_or_else(|| {
            let payload = String::from_utf8_lossy(payload);
            format!("the case has no answer to {namespace}/{operation} {payload}")
        });
        i32::from(self.host_answer.is_ok())
    }

    fn host_response(&self) -> &[u8] {
        self.host_answer.as_deref().unwrap_or_default()
    }

    fn host_error(&self) -> &[u8] {
        match &self.host_answer {
            Ok(_) => &[],
            Err(text) => text.as_bytes(),
        }
    }
}

/// Gives a module its imports.
pub fn link(linker: &mut Linker<Guest>) -> Result<()> {
    link_requests(linker)?;
    link_host_calls(linker)?;
    link_wasi(linker)
}

fn link_requests(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        WAPC,
        "__guest_request",
        |mut guest: Caller<'_, Guest>, operation: u32, payload: u32| {
            let case = Arc::clone(&guest.data().case);
            write(&mut guest, operation, case.operation.as_bytes())?;
            write(&mut guest, payload, &case.payload)
        },
    )?;
    linker.func_wrap(
        WAPC,
        "__guest_response",
        |mut guest: Caller<'_, Guest>, start: u32, length: u32| {
            let bytes = read(&mut guest, start, length)?;
            guest.data_mut().response = Some(bytes);
            Ok(())
        },
    )?;
    linker.func_wrap(
        WAPC,
        "__guest_error",
        |mut guest: Caller<'_, Guest>, start: u32, length: u32| {
            let bytes = read(&mut guest, start, length)?;
            guest.data_mut().error = Some(bytes);
            Ok(())
        },
    )?;
    linker.func_wrap(WAPC, "__console_log", |_: u32, _: u32| {})?;
    Ok(())
}

fn link_host_calls(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(WAPC, "__host_call", host_call)?;
    linker.func_wrap(WAPC, "__host_response_len", |guest: Caller<'_, Guest>| {
        length(guest.data().host_response())
    })?;
    linker.func_wrap(
        WAPC,
        "__host_response",
        |mut guest: Caller<'_, Guest>, start: u32| {
            let bytes = guest.data().host_response().to_vec();
            write(&mut guest, start, &bytes)
        },
    )?;
    linker.func_wrap(WAPC, "__host_error_len", |guest: Caller<'_, Guest>| {
        length(guest.data().host_error())
    })?;
    linker.func_wrap(
        WAPC,
        "__host_error",
        |mut guest: Caller<'_, Guest>, start: u32| {
            let bytes = guest.data().host_error().to_vec();
            write(&mut guest, start, &bytes)
        },
    )?;
    Ok(())
}

/// Binding, namespace, operation and payload, each as start and length; 1 if there is an answer, 0 if there is an error.
#[allow(clippy::too_many_arguments)] // the protocol's
fn host_call(
    mut guest: Caller<'_, Guest>,
    _binding: u32,
    _binding_length: u32,
    namespace: u32,
    namespace_length: u32,
    operation: u32,
    operation_length: u32,
    payload: u32,
    payload_length: u32,
) -> Result<i32> {
    let namespace = read(&mut guest, namespace, namespace_length)?;
    let operation = read(&mut guest, operation, operation_length)?;
    let payload = read(&mut guest, payload, payload_length)?;
    let namespace = String::from_utf8_lossy(&namespace);
    let operation = String::from_utf8_lossy(&operation);
    Ok(guest.data_mut().call(&namespace, &operation, &payload))
}

fn link_wasi(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(
        WASI,
        "random_get",
        |mut guest: Caller<'_, Guest>, start: u32, length: u32| {
            let bytes: Vec<_> = (0..length).map(|_| guest.data().seed).collect();
            write(&mut guest, start, &bytes).map(|()| SUCCESS)
        },
    )?;
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |mut guest: Caller<'_, Guest>, _clock: u32, _precision: u64, result: u32| {
            write(&mut guest, result, &0_u64.to_le_bytes()).map(|()| SUCCESS)
        },
    )?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |mut guest: Caller<'_, Guest>, count: u32, size: u32| {
            write(&mut guest, count, &[0; 4])?;
            write(&mut guest, size, &[0; 4]).map(|()| SUCCESS)
        },
    )?;
    linker.func_wrap(WASI, "environ_get", |_: u32, _: u32| SUCCESS)?;
    Ok(())
}

fn read(guest: &mut Caller<'_, Guest>, start: u32, length: u32) -> Result<Vec<u8>> {
    let memory = memory(guest)?;
    let mut bytes = vec![0; usize::try_from(length)?];
    memory.read(guest, usize::try_from(start)?, &mut bytes)?;
    Ok(bytes)
}

fn write(guest: &mut Caller<'_, Guest>, start: u32, bytes: &[u8]) -> Result<()> {
    let memory = memory(guest)?;
    memory.write(guest, usize::try_from(start)?, bytes)?;
    Ok(())
}

fn length(bytes: &[u8]) -> Result<u32> {
    Ok(u32::try_from(bytes.len())?)
}

fn memory(guest: &mut Caller<'_, Guest>) -> Result<Memory> {
    guest
        .get_export(MEMORY)
        .and_then(Extern::into_memory)
        .ok_or_else(|| format_err!("the guest has no memory"))
}
