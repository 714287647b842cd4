pub fn plugins() {}
