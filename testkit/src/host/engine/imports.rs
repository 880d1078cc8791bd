//! What an interpreted guest imports: the functions of the waPC protocol, and the part of WASI that Rust programs use.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use wapc::{HOST_NAMESPACE, ModuleState, wapc_functions};
use wasmi::{Caller, Error, Extern, Linker, Memory, TrapCode};

const WASI: &str = "wasi_snapshot_preview1";
/// WASI's error numbers.
const SUCCESS: i32 = 0;
const BAD_DESCRIPTOR: i32 = 8;

/// The host's side of an instance.
pub struct Guest {
    pub host: Arc<ModuleState>,
}

/// Gives a module its imports.
pub fn link(linker: &mut Linker<Guest>) -> Result<(), Error> {
    link_requests(linker)?;
    link_host_calls(linker)?;
    link_wasi(linker)
}

fn link_requests(linker: &mut Linker<Guest>) -> Result<(), Error> {
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::GUEST_REQUEST_FN,
        |mut guest: Caller<'_, Guest>, operation: u32, payload: u32| -> Result<(), Error> {
            if let Some(request) = guest.data().host.get_guest_request() {
                write(&mut guest, operation, request.operation.as_bytes())?;
                write(&mut guest, payload, &request.msg)?;
            }
            Ok(())
        },
    )?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::GUEST_RESPONSE_FN,
        |guest: Caller<'_, Guest>, start: u32, length: u32| -> Result<(), Error> {
            let response = read(&guest, start, length)?;
            guest.data().host.set_guest_response(response);
            Ok(())
        },
    )?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::GUEST_ERROR_FN,
        |guest: Caller<'_, Guest>, start: u32, length: u32| -> Result<(), Error> {
            let error = text(&guest, start, length)?;
            guest.data().host.set_guest_error(error);
            Ok(())
        },
    )?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::HOST_CONSOLE_LOG,
        |guest: Caller<'_, Guest>, start: u32, length: u32| -> Result<(), Error> {
            let message = text(&guest, start, length)?;
            guest.data().host.do_console_log(&message);
            Ok(())
        },
    )?;
    Ok(())
}

fn link_host_calls(linker: &mut Linker<Guest>) -> Result<(), Error> {
    linker.func_wrap(HOST_NAMESPACE, wapc_functions::HOST_CALL, host_call)?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::HOST_RESPONSE_LEN_FN,
        |guest: Caller<'_, Guest>| length(guest.data().host.host_response_len()),
    )?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::HOST_RESPONSE_FN,
        |mut guest: Caller<'_, Guest>, start: u32| {
            let host = Arc::clone(&guest.data().host);
            host.with_host_response(|response| write(&mut guest, start, response))
                .unwrap_or(Ok(()))
        },
    )?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::HOST_ERROR_LEN_FN,
        |guest: Caller<'_, Guest>| length(host_error(&guest).len()),
    )?;
    linker.func_wrap(
        HOST_NAMESPACE,
        wapc_functions::HOST_ERROR_FN,
        |mut guest: Caller<'_, Guest>, start: u32| {
            let error = host_error(&guest);
            write(&mut guest, start, error.as_bytes())
        },
    )?;
    Ok(())
}

/// Binding, namespace, operation and payload, each as start and length; 1 if there is a response, 0 if there is an error.
#[allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "the protocol's arguments, as the linker passes them"
)]
fn host_call(
    guest: Caller<'_, Guest>,
    binding: u32,
    binding_length: u32,
    namespace: u32,
    namespace_length: u32,
    operation: u32,
    operation_length: u32,
    payload: u32,
    payload_length: u32,
) -> Result<i32, Error> {
    let binding = text(&guest, binding, binding_length)?;
    let namespace = text(&guest, namespace, namespace_length)?;
    let operation = text(&guest, operation, operation_length)?;
    let payload = read(&guest, payload, payload_length)?;
    let host = &guest.data().host;
    Ok(host
        .do_host_call(&binding, &namespace, &operation, &payload)
        .unwrap_or(0))
}

fn host_error(guest: &Caller<'_, Guest>) -> String {
    guest.data().host.get_host_error().unwrap_or_default()
}

fn link_wasi(linker: &mut Linker<Guest>) -> Result<(), Error> {
    linker.func_wrap(
        WASI,
        "random_get",
        |mut guest: Caller<'_, Guest>, start: u32, length: u32| {
            fastrand::fill(slice_mut(&mut guest, start, length as usize)?);
            Ok::<_, Error>(SUCCESS)
        },
    )?;
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |mut guest: Caller<'_, Guest>, _clock: u32, _precision: u64, result: u32| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let nanoseconds =
                now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
            write(&mut guest, result, &nanoseconds.to_le_bytes()).map(|()| SUCCESS)
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
    // The guest has no files and no standard streams, as in the policy server.
    linker.func_wrap(WASI, "fd_write", |_: u32, _: u32, _: u32, _: u32| {
        BAD_DESCRIPTOR
    })?;
    linker.func_wrap(WASI, "proc_exit", |code: i32| {
        Err::<(), _>(Error::i32_exit(code))
    })?;
    Ok(())
}

fn text(guest: &Caller<'_, Guest>, start: u32, length: u32) -> Result<String, Error> {
    let bytes = read(guest, start, length)?;
    String::from_utf8(bytes).map_err(|error| Error::new(error.to_string()))
}

fn read(guest: &Caller<'_, Guest>, start: u32, length: u32) -> Result<Vec<u8>, Error> {
    let start = start as usize;
    memory(guest)?
        .data(guest)
        .get(start..start.saturating_add(length as usize))
        .map(<[u8]>::to_vec)
        .ok_or_else(out_of_bounds)
}

fn write(guest: &mut Caller<'_, Guest>, start: u32, bytes: &[u8]) -> Result<(), Error> {
    slice_mut(guest, start, bytes.len())?.copy_from_slice(bytes);
    Ok(())
}

fn slice_mut<'guest>(
    guest: &'guest mut Caller<'_, Guest>,
    start: u32,
    length: usize,
) -> Result<&'guest mut [u8], Error> {
    let start = start as usize;
    memory(guest)?
        .data_mut(guest)
        .get_mut(start..start.saturating_add(length))
        .ok_or_else(out_of_bounds)
}

fn out_of_bounds() -> Error {
    Error::from(TrapCode::MemoryOutOfBounds)
}

fn length(bytes: usize) -> Result<u32, Error> {
    u32::try_from(bytes).map_err(|error| Error::new(error.to_string()))
}

fn memory(guest: &Caller<'_, Guest>) -> Result<Memory, Error> {
    guest
        .get_export("memory")
        .and_then(Extern::into_memory)
        .ok_or_else(|| Error::new("the guest has no memory"))
}
