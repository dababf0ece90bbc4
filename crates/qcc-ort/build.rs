//! Keeps the library in memory once it is loaded: threads of rayon and code of LLVM outlive
//! `unregister_execution_provider_library`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
