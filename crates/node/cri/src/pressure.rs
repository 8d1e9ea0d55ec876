//! Pressure stall information, as the kernel writes it and as CRI has it.

use crate::v1;

/// Reads the text of a file of the kernel, `cpu.pressure` of a group or `/proc/pressure/cpu`: how much of the last seconds tasks
/// stood still for want of something, and for how many microseconds altogether.
///
/// None if it has no line that can be read. Old kernels have no line `full` of the processor; then it is missing here too.
#[must_use]
pub fn parse_pressure(text: &str) -> Option<v1::PsiStats> {
    let read = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let field = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        let share = |key: &str| field(key)?.trim().parse::<f64>().ok();
        Some(v1::PsiData {
            total: field("total")?.trim().parse().ok()?,
            avg10: share("avg10")?,
            avg60: share("avg60")?,
            avg300: share("avg300")?,
        })
    };
    let found = v1::PsiStats { full: read("full"), some: read("some") };
    (found.full.is_some() || found.some.is_some()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let some = v1::PsiData { total: 1234, avg10: 1.5, avg60: 0.25, avg300: 0.0 };
        let line = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n";
        let alone = v1::PsiStats { some: Some(some), full: None };
        assert_eq!(parse_pressure(line), Some(alone));
        let both = format!("{line}full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
        let full = Some(v1::PsiData { total: 7, ..v1::PsiData::default() });
        assert_eq!(parse_pressure(&both), Some(v1::PsiStats { full, ..alone }));
        for broken in
            ["", "some avg10=x avg60=0 avg300=0 total=1", "some avg10=1", "something avg10=0 total=1"]
        {
            assert_eq!(parse_pressure(broken), None, "{broken}");
        }
    }
}
