"""A hundred schemas from simple to nasty, all with short instances."""

STRING = {"type": "string", "maxLength": 8}
INTEGER = {"type": "integer", "minimum": -99, "maximum": 99}
NUMBER = {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.5}
BOOLEAN = {"type": "boolean"}
NULL = {"type": "null"}


def record(properties, required=None, **more):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    } | more


def array(items, most=3, **more):
    return {"type": "array", "items": items, "maxItems": most} | more


SCHEMAS = {
    # values
    "empty string or short": STRING,
    "string of a length": {"type": "string", "minLength": 3, "maxLength": 3},
    "empty string only": {"type": "string", "maxLength": 0},
    "integer in a range": INTEGER,
    "integer below nought": {"type": "integer", "minimum": -5, "maximum": -1},
    "integer between exclusive bounds": {
        "type": "integer",
        "exclusiveMinimum": 3,
        "exclusiveMaximum": 6,
    },
    "large integers": {"type": "integer", "minimum": 10**9, "maximum": 10**9 + 7},
    "number of halves": NUMBER,
    "number between exclusive bounds": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "multipleOf": 0.25,
    },
    "multiple of seven": {"type": "integer", "minimum": 0, "maximum": 70, "multipleOf": 7},
    "boolean": BOOLEAN,
    "null": NULL,
    "type list": {"type": ["string", "null"], "maxLength": 6},
    "three types": {"type": ["integer", "boolean", "null"], "minimum": 0, "maximum": 9},
    "number or text": {"type": ["number", "string"], "minimum": 0, "maximum": 1, "maxLength": 4},
    # enum and const
    "enum of strings": {"enum": ["red", "green", "blue"]},
    "enum of kinds": {"enum": ["one", 2, 3.5, True, None, ["a"], {"b": 1}]},
    "enum within a type": {"type": "string", "enum": ["north", "south", 5]},
    "enum of one": {"enum": ["only"]},
    "enum of prefixes": {"enum": ["a", "ab", "abc", "abcd"]},
    "enum with quotes": {"enum": ['say "hi"', "back\\slash", "tab\there", "line\nend"]},
    "enum of five hundred": {"enum": [f"item-{number}" for number in range(500)]},
    "const string": {"const": "fixed"},
    "const number": {"const": 42},
    "const object": {"const": {"a": [1, 2, {"b": None}]}},
    "const null": {"const": None},
    "const false": {"const": False},
    # patterns
    "pattern of digits": {"type": "string", "pattern": "^[0-9]{4}$"},
    "pattern with classes": {"type": "string", "pattern": r"^\w{2}-\d{2}$"},
    "pattern with alternatives": {"type": "string", "pattern": "^(cat|dog|bird)s?$"},
    "pattern and length": {"type": "string", "pattern": "^[ab]*$", "minLength": 2, "maxLength": 4},
    "pattern without anchors": {"type": "string", "pattern": "z", "maxLength": 4},
    "pattern of a plate": {"type": "string", "pattern": "^[A-Z]{1,3}-[A-Z]{2} [1-9][0-9]{0,3}$"},
    "pattern of a colour": {"type": "string", "pattern": "^#[0-9a-f]{6}$"},
    "pattern with quotes": {"type": "string", "pattern": '^"[a-c]+"$', "maxLength": 6},
    "pattern with a backslash": {"type": "string", "pattern": r"^C:\\[a-z]{1,4}$"},
    "pattern of nested repeats": {"type": "string", "pattern": "^(a+)+$", "maxLength": 6},
    # formats
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time", "pattern": "^[0-9:]{8}Z$"},
    "date and time": {
        "type": "string",
        "format": "date-time",
        "pattern": "^[0-9]{4}-[0-9-]{5}T[0-9:]{8}Z$",
    },
    "duration": {"type": "string", "format": "duration", "maxLength": 6},
    "email": {"type": "string", "format": "email", "maxLength": 14},
    "host name": {"type": "string", "format": "hostname", "maxLength": 12},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6", "maxLength": 20},
    "uuid": {"type": "string", "format": "uuid"},
    "uri": {"type": "string", "format": "uri", "maxLength": 16},
    # objects
    "record": record({"name": STRING, "age": INTEGER}),
    "record without properties": record({}),
    "optional properties": record({"a": INTEGER, "b": INTEGER, "c": INTEGER}, required=["b"]),
    "nothing required": record({"a": BOOLEAN, "b": NULL}, required=[]),
    "nullable property": record({"nick": {"anyOf": [STRING, NULL]}}),
    "nested records": record({"a": record({"b": record({"c": BOOLEAN})})}),
    "map of numbers": {
        "type": "object",
        "additionalProperties": INTEGER,
        "minProperties": 1,
        "maxProperties": 1,
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^x[0-9]$": INTEGER},
        "additionalProperties": False,
        "maxProperties": 1,
    },
    "pattern properties with fixed ones": {
        "type": "object",
        "properties": {"id": INTEGER},
        "required": ["id"],
        "patternProperties": {"^y": BOOLEAN},
        "additionalProperties": False,
        "maxProperties": 1,
    },
    "twelve properties": record({f"p{number}": BOOLEAN for number in range(12)}),
    "fifteen optional properties": record(
        {f"p{number}": {"const": number} for number in range(15)}, required=["p14"]
    ),
    "keys to escape": record({'a "b"': BOOLEAN, "c\\d": BOOLEAN, "e/f~": BOOLEAN}),
    "property of any kind": record({"any": {"enum": [1, "x", None]}}),
    "required but not described": {
        "type": "object",
        "properties": {"a": BOOLEAN},
        "required": ["a", "b"],
        "additionalProperties": INTEGER,
        "maxProperties": 2,
    },
    "description and title": record({"n": {**INTEGER, "title": "N", "description": "a number"}}),
    "default and examples": record({"n": {**INTEGER, "default": 5, "examples": [1]}}),
    # arrays
    "array of integers": array(INTEGER),
    "empty array": array(INTEGER, most=0),
    "array of two at least": array(BOOLEAN, minItems=2),
    "array of arrays": array(array({"enum": [0, 1]}, most=2), most=2),
    "array of records": array(record({"x": INTEGER, "y": INTEGER}), most=2),
    "tuple": {
        "type": "array",
        "prefixItems": [STRING, INTEGER, BOOLEAN],
        "items": False,
        "minItems": 3,
    },
    "tuple with a tail": {
        "type": "array",
        "prefixItems": [BOOLEAN],
        "items": INTEGER,
        "minItems": 2,
        "maxItems": 3,
    },
    "matrix": array(array(INTEGER, most=2, minItems=2), most=2, minItems=2),
    "array of enums": array({"enum": ["low", "high"]}),
    "array of nullable": array({"type": ["integer", "null"], "minimum": 0, "maximum": 5}),
    # combining
    "any of two": {"anyOf": [STRING, INTEGER]},
    "any of two records": {
        "anyOf": [
            record({"kind": {"const": "cat"}, "lives": INTEGER}),
            record({"kind": {"const": "dog"}, "tricks": array({"enum": ["sit", "roll"]})}),
        ]
    },
    "any of within any of": {"anyOf": [{"anyOf": [NULL, BOOLEAN]}, INTEGER]},
    "one of disjoint types": {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    "one of tagged records": {
        "oneOf": [
            record({"type": {"const": "circle"}, "radius": INTEGER}),
            record({"type": {"const": "square"}, "side": INTEGER}),
        ]
    },
    "all of bounds": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "all of records": {
        "allOf": [
            {"type": "object", "properties": {"a": BOOLEAN}, "required": ["a"]},
            {"properties": {"b": INTEGER}, "required": ["b"], "additionalProperties": True},
        ],
        "properties": {"a": True, "b": True},
        "additionalProperties": False,
    },
    "all of with a reference": {
        "$defs": {"short": {"type": "string", "maxLength": 5}},
        "allOf": [{"$ref": "#/$defs/short"}, {"minLength": 2}],
    },
    "any of with a sibling": {
        "type": "string",
        "anyOf": [{"pattern": "^a"}, {"pattern": "^b"}],
        "maxLength": 5,
    },
    # references
    "reference": {"$ref": "#/$defs/n", "$defs": {"n": INTEGER}},
    "reference with a sibling": {"$ref": "#/$defs/n", "minimum": 50, "$defs": {"n": INTEGER}},
    "reference by anchor": {"$ref": "#here", "$defs": {"n": {"$anchor": "here", **BOOLEAN}}},
    "references in a chain": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": BOOLEAN},
    },
    "old definitions": {
        "definitions": {"flag": BOOLEAN},
        **record({"a": {"$ref": "#/definitions/flag"}, "b": {"$ref": "#/definitions/flag"}}),
    },
    "linked list": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": record(
                {"v": {"const": 1}, "next": {"anyOf": [NULL, {"$ref": "#/$defs/last"}]}}
            ),
            "last": record({"v": {"const": 2}, "next": NULL}),
        },
    },
    "recursion that must end": {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": array({"anyOf": [{"const": 0}, {"$ref": "#/$defs/leaf"}]}, most=2)}
        | {"leaf": array({"const": 1}, most=2)},
    },
    "references that double": {
        "$ref": "#/$defs/d0",
        "$defs": {
            **{
                f"d{number}": {"anyOf": [{"$ref": f"#/$defs/d{number + 1}"}, {"const": number}]}
                for number in range(10)
            },
            "d10": NULL,
        },
    },
    # unicode
    "unicode enum": {"enum": ["Zürich", "東京", "Ελλάδα", "😀"]},
    "unicode keys": record({"größe": INTEGER, "名前": {"enum": ["猫", "犬"]}}),
    "unicode const": {"const": "naïve ☕ \U0001f680"},
    "unicode pattern": {"type": "string", "pattern": "^[äöü]{2,4}$"},
    "unicode of three": {"type": "string", "pattern": "^[д-к]{3}$"},
    # as applications have them
    "weather call": record(
        {"city": {"enum": ["Bern", "Rome"]}, "unit": {"enum": ["c", "f"]}, "days": INTEGER}
    ),
    "invoice": record(
        {
            "id": {"type": "string", "pattern": "^INV-[0-9]{3}$"},
            "paid": BOOLEAN,
            "lines": array(record({"sku": {"enum": ["A1", "B2"]}, "qty": INTEGER}), most=1),
        }
    ),
    "model of pydantic": {
        "$defs": {
            "Size": {"enum": ["s", "m"], "title": "Size", "type": "string"},
            "Item": {
                "properties": {
                    "size": {"$ref": "#/$defs/Size"},
                    "note": {"anyOf": [STRING, NULL], "default": None, "title": "Note"},
                },
                "required": ["size", "note"],
                "title": "Item",
                "type": "object",
                "additionalProperties": False,
            },
        },
        "properties": {"item": {"$ref": "#/$defs/Item"}, "ok": {"title": "Ok", **BOOLEAN}},
        "required": ["item", "ok"],
        "title": "Order",
        "type": "object",
        "additionalProperties": False,
    },
    "discriminated union": record(
        {
            "event": {
                "oneOf": [
                    record({"t": {"const": "open", "type": "string"}}),
                    record({"t": {"const": "close", "type": "string"}, "code": INTEGER}),
                ],
                "discriminator": {"propertyName": "t"},
            }
        }
    ),
    "yes or no": record({"answer": {"type": "string", "enum": ["yes", "no"]}}),
}
