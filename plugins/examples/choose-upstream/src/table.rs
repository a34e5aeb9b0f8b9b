//! Where in the table a tenant and a plan may stand.

/// Stands for every tenant, or plan, that has no line of its own.
const EVERY: &str = "*";

/// JSON Pointers to the lines that apply, the most specific first.
pub(crate) fn lines(tenant: Option<&str>, plan: Option<&str>) -> impl Iterator<Item = String> {
    // A tenant or plan that calls itself `*` has no line of its own.
    let [tenant, plan] = [tenant, plan].map(|name| name.filter(|name| *name != EVERY).map(escaped));
    let tenants = [tenant, Some(EVERY.to_owned())].into_iter().flatten();
    tenants.flat_map(move |tenant| {
        let plans = [plan.clone(), Some(EVERY.to_owned())].into_iter().flatten();
        plans.map(move |plan| format!("/table/{tenant}/{plan}"))
    })
}

/// One step of a JSON Pointer (RFC 6901 3): without this a plan `a/b` would reach into the table.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_line_comes_first() {
        let lines: Vec<_> = lines(Some("acme"), Some("gold")).collect();
        assert_eq!(lines, ["/table/acme/gold", "/table/acme/*", "/table/*/gold", "/table/*/*"]);
    }

    #[test]
    fn who_has_no_tenant_or_plan_finds_what_holds_for_everybody() {
        assert_eq!(lines(None, Some("gold")).collect::<Vec<_>>(), ["/table/*/gold", "/table/*/*"]);
        assert_eq!(lines(Some("acme"), None).collect::<Vec<_>>(), ["/table/acme/*", "/table/*/*"]);
        assert_eq!(lines(None, Some("*")).collect::<Vec<_>>(), ["/table/*/*"]);
    }

    #[test]
    fn a_name_stays_one_step_of_the_pointer() {
        assert_eq!(lines(Some("a/b"), Some("~1")).next().as_deref(), Some("/table/a~1b/~01"));
    }
}
