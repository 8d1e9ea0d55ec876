//! The shim's program: its socket is where input would be, its sandbox's state directory the second argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, what, directory] = arguments.as_slice()
        && what == podium_shim::protocol::CHECK_USERS
    {
        return match podium_shim::userns::check(directory.as_ref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if let [_, what] = arguments.as_slice()
        && what == podium_shim::protocol::HOLD
    {
        // Nobody writes there; its end is all that is waited for, whatever it is.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return ExitCode::SUCCESS;
    }
    let [_, _, directory] = arguments.as_slice() else {
        eprintln!("podium-shim: started by podium's container runtime, not by people");
        return ExitCode::from(2);
    };
    // The daemon has none for itself, and containers are to have them as without it. A kernel without the setting has nothing to set.
    let _ = nix::sys::prctl::set_thp_disable(false);
    match podium_shim::serve::run(directory.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podium-shim: {error}");
            ExitCode::FAILURE
        }
    }
}
