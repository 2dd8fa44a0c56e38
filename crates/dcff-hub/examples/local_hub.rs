//! A Hub on this machine, for trying out publishing: prints its address, serves from memory, ends with its standard input.
//!
//! ```text
//! cargo run --package dcff-hub --features client --example local_hub
//! HF_ENDPOINT=http://127.0.0.1:PORT HF_TOKEN=hf_verysecretwriter dcff publish RUN someone/name
//! ```

#[path = "../tests/server/mod.rs"]
#[allow(dead_code)]
mod server;

use std::io::Read;

fn main() {
    println!("{}", server::Server::start().endpoint);
    // Whoever started this ends it by closing the pipe, also when it is killed.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
