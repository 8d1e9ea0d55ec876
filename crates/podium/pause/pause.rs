//! The process that holds a pod's namespaces: it waits, reaps orphans, and ends when told to.
//!
//! Compiled on its own by the build script (no standard library, no C library: a few kilobytes) and carried inside the
//! binary, because every pod needs one and a new machine has no registry to fetch it from.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(2)
}

// The kernel enters here with no return address and the stack pointer aligned for none.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {main}", "brk #1", main = sym main);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const SIGPROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 60;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 93;
}

/// SIGINT (2), SIGTERM (15) and SIGCHLD (17) as the kernel's bit set: bit n-1.
const WATCHED: u64 = 1 << 1 | 1 << 14 | 1 << 16;
const CHILD: isize = 17;

fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the four calls made below write only through the pointers we pass, which outlive them.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _);
    }
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d);
    }
    result
}

fn exit(code: usize) -> ! {
    loop {
        call(number::EXIT, code, 0, 0, 0);
    }
}

extern "C" fn main() -> ! {
    let set = WATCHED;
    let set = &raw const set as usize;
    // Blocked signals are queued even for a namespace's first process, which ignores unhandled ones otherwise.
    call(number::SIGPROCMASK, 0, set, 0, 8);
    loop {
        match call(number::SIGTIMEDWAIT, set, 0, 0, 8) {
            CHILD => {
                // WNOHANG: take every child that has ended.
                while call(number::WAIT4, usize::MAX, 0, 1, 0) > 0 {}
            }
            2 | 15 => exit(0),
            _ => {}
        }
    }
}
