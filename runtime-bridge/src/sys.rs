//! System calls without safe wrappers.

/// Hexadecimal digits of `bytes` bytes of kernel randomness.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0u8; bytes];
    let mut done = 0;
    while done < bytes {
        // SAFETY: the pointer and the length describe the unfilled rest of `buffer`.
        let n = unsafe { nix::libc::getrandom(buffer.as_mut_ptr().add(done).cast(), bytes - done, 0) };
        if n > 0 {
            done += n.unsigned_abs();
        }
    }
    buffer.iter().map(|b| format!("{b:02x}")).collect()
}
