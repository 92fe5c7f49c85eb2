//! Giving memory back.

use std::os::raw::{c_int, c_void};

/// Unmaps the program's own code and constants from memory; what is used again is mapped again, from
/// the page cache. The kernel maps 64 KiB around every page that is used: after a start, or a rare
/// piece of work, most of what counts as the process's memory is code that it does not run.
pub fn release_code() {
    // SAFETY: the callback is called during the call only, and ignores its last argument.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Has the allocator give pages back to the kernel as soon as nothing is in them, not only when the
/// same thread frees again some milliseconds later: a thread that has become idle never does. Unless
/// the environment says otherwise (`MIMALLOC_PURGE_DELAY`).
#[cfg(feature = "mimalloc")]
pub fn give_back_at_once() {
    /// `mi_option_purge_delay` of mimalloc 2, which the bindings do not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: may be called at any time; the option is one of this version's.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    }
}

/// Gives the free pages of the heap back to the kernel.
pub fn trim_heap() {
    // SAFETY: no arguments that matter.
    #[cfg(feature = "mimalloc")]
    unsafe {
        libmimalloc_sys::mi_collect(true)
    };
    // The C library's own.
    // SAFETY: no arguments that matter.
    unsafe { libc::malloc_trim(0) };
}

/// Called for the program first; answers that it needs no other object.
unsafe extern "C" fn release(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the C library passes a valid description with `dlpi_phnum` headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (
            info.dlpi_addr,
            std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)),
        )
    };
    const PAGE: u64 = 4096;
    for header in headers {
        // What may be written is not the file's any more, also where it was made read-only later.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        // Whole pages only: the first and the last may be another part's, too.
        let start = (base + header.p_vaddr).next_multiple_of(PAGE);
        let end = (base + header.p_vaddr + header.p_filesz) / PAGE * PAGE;
        if start < end {
            // SAFETY: pages of a private mapping of a file that were never written hold what the
            // file holds; they are read from it again when they are next used.
            unsafe {
                libc::madvise(
                    start as *mut c_void,
                    (end - start) as usize,
                    libc::MADV_DONTNEED,
                )
            };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "mimalloc")]
    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: reads an option.
        let get = || unsafe { libmimalloc_sys::mi_option_get(15) };
        assert_eq!(get(), 10, "the default of another option, or of another version");
        super::give_back_at_once();
        assert_eq!(get(), 0);
    }

    #[test]
    fn code_goes_on_and_constants_stay() {
        let resident = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|l| l.starts_with("RssFile")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let words: Vec<String> = (0..1000).map(|n| format!("{n:x}")).collect();
        let before = resident();
        super::release_code();
        let after = resident();
        assert!(after < before, "{before} kB, then {after} kB");
        assert_eq!(words[255], "ff");
        assert_eq!("stra\u{df}e".to_uppercase(), "STRASSE");
        super::trim_heap();
    }
}
