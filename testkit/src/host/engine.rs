//! Prepares the module once, runs every call in a fresh instance, and stops guests that take too long.

#[cfg(feature = "wasmtime")]
mod compiled;
mod imports;
mod interpreted;

use std::time::Duration;

use wapc::{WapcHost, WebAssemblyEngineProvider};

use super::HostError;
use super::callback::Callbacks;
use crate::blocking;
#[cfg(feature = "wasmtime")]
use compiled::Compiled;
use interpreted::Interpreted;

/// Part of the text with which an engine reports a missed deadline; it has no type of its own.
pub(super) const INTERRUPTED: &str = "guest code interrupted, execution deadline exceeded";

/// How long a guest may run: `ticks` times `tick`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub ticks: u64,
    pub tick: Duration,
}

pub(super) enum Engine {
    #[cfg(feature = "wasmtime")]
    Compiled(Box<Compiled>),
    Interpreted(Interpreted),
}

impl Engine {
    /// Compiles a module with wasmtime, as the policy server does. Without a deadline a guest may run forever, as in kwctl.
    #[cfg(feature = "wasmtime")]
    pub fn compile(wasm: &[u8], deadline: Option<Deadline>) -> Result<Self, HostError> {
        Compiled::new(wasm, deadline).map(|module| Self::Compiled(Box::new(module)))
    }

    /// Prepares a module (binary format) for interpretation with wasmi, which takes much less time to build than wasmtime.
    pub fn interpret(wasm: &[u8], deadline: Option<Deadline>) -> Result<Self, HostError> {
        Interpreted::new(wasm, deadline).map(Self::Interpreted)
    }

    /// Calls one operation of a fresh instance. No state survives from one call to the next.
    pub fn call(
        &self,
        operation: &str,
        payload: &[u8],
        callbacks: Callbacks,
    ) -> Result<Vec<u8>, wapc::errors::Error> {
        // WASI functions of wasmtime block on a runtime of their own, which is not possible inside another one.
        blocking::off_runtime(move || {
            let host = WapcHost::new(
                self.instance()?,
                Some(Box::new(
                    move |_, binding, namespace, operation, payload| {
                        callbacks.handle(binding, namespace, operation, payload)
                    },
                )),
            )?;
            host.call(operation, payload)
        })
    }

    fn instance(&self) -> Result<Box<dyn WebAssemblyEngineProvider>, wapc::errors::Error> {
        match self {
            #[cfg(feature = "wasmtime")]
            Self::Compiled(module) => module.instance(),
            Self::Interpreted(module) => Ok(module.instance()),
        }
    }
}
