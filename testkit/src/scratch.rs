//! What a server that a test starts needs of the machine: a folder and a port.

use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

/// A folder that goes when it is dropped. In memory where the system has such a folder: disks only add noise, and etcd
/// syncs every write.
pub fn folder(prefix: &str) -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    Ok(if memory.is_dir() {
        builder.tempdir_in(memory)?
    } else {
        builder.tempdir()?
    })
}

/// A port on which nobody listened a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
