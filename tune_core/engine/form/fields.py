"""What forms are made of: models whose JSON schema Prefect's UIs render, and choices made from constructors.

Both of Prefect's UIs draw a form from the parameters' JSON schema, and the server checks by the same schema
what is sent. Seen in them (Prefect 3.8): `anyOf` becomes tabs in both, `oneOf` a box for JSON in V1, and the
wrong tab in V2; `anyOf` with null adds a tab "None" to each field that may stay empty; items of a list are
drawn if they are one model, not if they are `anyOf`. Which tab a value belongs to, both guess by the names of its
keys, so a choice is written `{"asha": {"max_t": 20}}`: with a key of its own. If no key says it, V1 takes the first
tab, V2 the one of an object without properties. A value that lands on the wrong tab is lost as soon as the page is
drawn. Hence the schemas differ from pydantic's own.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function, tagged_union_schema

from tune_core.engine.form.yaml12 import read_list

#: One value of a list or a constant: whatever JSON has. Tabs, since a text field would turn 16 into "16".
_ANY_VALUE = [
    *({"type": kind} for kind in ("number", "string", "boolean")),
    {"type": "array", "minItems": 0},  # unless that is said, V2 drops an empty list where a value is required
    {"type": "object"},
    {"type": "null", "title": "None"},
]
#: Arguments of several samplers that their docstrings need not repeat.
_DESCRIBED = {
    "lower": "Smallest value.",
    "upper": "Largest value; for whole numbers without a step, one above it.",
    "q": "The distance between neighbours, of which the values are multiples. Empty: there is none.",
    "mean": "Mean of the normal distribution.",
    "sd": "Its standard deviation.",
}
_PLAIN = (bool, int, float, str)
#: The field that says which choice a model is of: no function or class has an argument of this name.
KIND = "option_kind"


class FormModel(BaseModel):
    """A part of a form. What is left empty is not written down, and takes the default of what is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: What the fields are arguments of: its docstring describes those that have no description of their own.
    makes: ClassVar[Callable[..., Any] | None] = None

    def given(self) -> dict[str, Any]:
        """Return the fields that are not empty, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    def make(self) -> Any:
        """Return a new object of what this is a form of.

        Raises:
            ConfigError: A value cannot work.
            ImportError: What it needs is not installed.
        """
        assert self.makes is not None
        return type(self).makes(**self.given())  # type: ignore[misc] # through the class: it is no method

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        if self.makes is not None:
            with suppress(ImportError):  # it may be there where the experiment runs, which says so if not
                self.make()
        return self

    @model_serializer(mode="wrap")
    def _as_json(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema as both UIs can render it."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        described = argument_docs(cls.makes) if cls.makes is not None else {}
        for position, (name, field) in enumerate(schema.get("properties", {}).items()):
            _simplify(field)
            field["position"] = position
            if name in described:
                field.setdefault("description", described[name])
        return reference


def _simplify(field: dict[str, Any]) -> None:
    """Draw an optional value as what it is if it is given."""
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if kinds == [{"type": "boolean"}]:
        return  # V1 sends false for a switch that nobody has touched; so there are tabs, and None is one of them
    field.pop("anyOf", None)
    if len(kinds) == 1:
        field.update(kinds[0])
    elif kinds:
        field["anyOf"] = kinds
    if field.get("default", ...) is None:
        del field["default"]


class OptionForm(FormModel):
    """A choice with its options: `option_kind` says which, the other fields are arguments of what it makes."""

    option_kind: str = ""

    def given(self) -> dict[str, Any]:
        """Return the options that are not empty, by name; what is chosen as one of them is made."""
        given = {name: value for name, value in super().given().items() if name != KIND}
        return {
            name: value.make() if isinstance(value, OptionForm) else value for name, value in given.items()
        }

    @model_serializer(mode="wrap")
    def _as_json(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        needed = {name for name, field in type(self).model_fields.items() if field.is_required()}
        options = {
            name: value for name, value in serialize(self).items() if value is not None or name in needed
        }
        return {options.pop(KIND): options}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of the options: the tab says which kind they are of."""
        reference = super().__get_pydantic_json_schema__(core_schema, handler)
        handler.resolve_ref_schema(reference)["properties"].pop(KIND, None)
        return reference


def tagged(value: Any) -> tuple[str | None, Any]:
    """Return the kind of a choice and its options, however it is written; None if it is no choice.

    Example:
        >>> tagged({"asha": {"max_t": 20}}), tagged({"type": "asha", "max_t": 20}), tagged("asha")
        (('asha', {'max_t': 20}), ('asha', {'max_t': 20}), ('asha', {}))
    """
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        return value["type"], {name: option for name, option in value.items() if name != "type"}
    if isinstance(value, Mapping) and len(value) == 1:
        kind, options = next(iter(value.items()))
        return str(kind), {} if options is None else options
    return None, None


def _kind_of(model: type[OptionForm]) -> str:
    kind: str = get_args(model.model_fields[KIND].annotation)[0]
    return kind


@dataclass(frozen=True)
class OneOf:
    """Annotates a field that is one of what a registry has, whenever its model is built.

    Attributes:
        registry: Returns functions or classes by name; the first is what the UIs suggest.
        left_out: Arguments that are given elsewhere.
        also: Models of more choices.
        limits: Keywords of `pydantic.Field`, by choice and argument.
        inside: For arguments that are of a class, what they may be.
    """

    registry: Callable[[], Mapping[str, Callable[..., Any]]]
    left_out: tuple[str, ...] = ()
    also: tuple[type[OptionForm], ...] = ()
    limits: Mapping[str, Mapping[str, Any]] | None = None
    inside: tuple[tuple[type, OneOf], ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make a union of models that is told apart by their kind; of several names of a class, the first is shown."""
        models: list[type[OptionForm]] = []
        first_names: dict[Any, str] = {}
        names: dict[str, str] = {}
        for name, makes in self.registry().items():
            names[name] = first_names.setdefault(makes, name)
            if names[name] == name:
                limits = (self.limits or {}).get(name, {})
                model = option_form(name, makes, self.left_out, limits, self.inside)
                models += [] if model is None else [model]
        models += self.also
        first_fields = {_kind_of(model): [*model.model_fields, None][1] for model in models}

        def named(value: Any) -> Any:
            kind, options = tagged(value)
            if kind is None:
                return value
            kind = names.get(kind.lower(), kind)
            if not isinstance(options, Mapping):  # as one writes {"grid_search": [1, 2]}
                options = {first_fields.get(kind) or "": options}
            return {**options, KIND: kind}

        union: Any = Union[(*models,)]
        choice = Annotated[union, Field(discriminator=KIND), BeforeValidator(named)]
        return handler.generate_schema(choice)

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return tabs, also where it is a parameter by itself."""
        return _tabs(handler(core_schema)["discriminator"]["mapping"])


def _tabs(references: Mapping[str, str]) -> dict[str, Any]:
    """Return a choice by kind, and the same once more as `if`s, which the UIs do not read.

    Of an `anyOf` that holds nothing, the server says only that; so it names the field of the kind that was meant.
    """
    tabs: list[dict[str, Any]] = []
    chain: dict[str, Any] = {"propertyNames": {"enum": list(references)}}
    for kind, reference in reversed(list(references.items())):
        options = {"title": "Options", "default": {}, "$ref": reference}
        tab = {
            "title": kind,
            "type": "object",
            "properties": {kind: options},
        }
        tabs.insert(0, {**tab, "required": [kind], "additionalProperties": False})
        chain = {
            "if": {"required": [kind]},
            "then": {"properties": {kind: {"$ref": reference}}},
            "else": chain,
        }
    return {"anyOf": tabs, **chain}


@dataclass(frozen=True)
class Entries:
    """Annotates a list of models which may also be written as a mapping, as one does in YAML.

    Attributes:
        of_mapping: Turns the mapping into the list; raises ValueError.
        mapping_schema: JSON schema of the mapping's values.
    """

    of_mapping: Callable[[Mapping[str, Any]], list[Any]]
    mapping_schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Turn a mapping into the list before anything else looks at it."""

        def listed(value: Any) -> Any:
            return self.of_mapping(value) if isinstance(value, Mapping) else value

        return no_info_before_validator_function(listed, handler(source))

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return tabs: the mapping as JSON, the list as a form. Each UI returns either as it was given.

        The mapping comes first since V1 opens the first tab for keys that it does not know. The `allOf` changes
        nothing but that V2 draws an editor: of a plain object without properties it draws nothing inside a tab.
        The default has both open the form where nothing was given.
        """
        mapping = {
            "type": "object",
            "title": "JSON",
            "additionalProperties": dict(self.mapping_schema),
            "allOf": [{"type": "object"}],
        }
        return {"anyOf": [mapping, {"title": "Form", **handler(core_schema)}], "default": []}


class _ValueList:
    """Annotates a list of values, which may also be a text such as `16, 32, 64`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def listed(value: Any) -> Any:
            return read_list(value, "the list of values") if isinstance(value, str) else value

        return handler.generate_schema(Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)])

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        text = {"type": "string", "title": "Text", "minLength": 1}
        return {
            "anyOf": [text, {"title": "List", "type": "array", "minItems": 1, "items": {"anyOf": _ANY_VALUE}}]
        }


class OneOrSeveral:
    """Annotates a field that is one of something, or a list of it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell by the value which of the two it is meant to be, so that a fault is said of that alone."""
        one, several = map(handler.generate_schema, get_args(source))
        return tagged_union_schema(
            {"one": one, "several": several},
            lambda value: "several" if isinstance(value, (list, tuple)) else "one",
        )

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return a tab for one, which comes first since both UIs open that, and one for several.

        Of choices, several are texts: a list of choices would be drawn as boxes to tick, each once.
        """
        one = handler(core_schema)["oneOf"][0]
        each = {"type": "string", "pattern": f"^({'|'.join(one['enum'])})$"} if "enum" in one else one
        return {
            "anyOf": [
                {**one, "title": "One"},
                {"title": "Several", "type": "array", "minItems": 1, "items": each},
            ]
        }


class AnyValue:
    """Annotates a value of any kind that JSON has."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return a tab for each kind."""
        return {"anyOf": _ANY_VALUE}


def option_form(
    name: str,
    makes: Callable[..., Any],
    left_out: Iterable[str] = (),
    limits: Mapping[str, Any] | None = None,
    inside: Iterable[tuple[type, OneOf]] = (),
) -> type[OptionForm] | None:
    """Return a model of a function's or a class's arguments, as far as JSON can hold them.

    Args:
        name: Its kind.
        makes: The function or class; its annotations and its docstring are what is shown.
        left_out: Arguments that the form does not have.
        limits: Keywords of `pydantic.Field` for arguments, by name.
        inside: For arguments that are of a class, what they may be.

    Returns:
        None if it cannot be called without what JSON cannot hold, such as a function.

    Example:
        >>> from tune_core.search import uniform
        >>> option_form("uniform", uniform)(option_kind="uniform", lower=0, upper=1).make()
        uniform(0.0, 1.0)
    """
    if limits:
        return _option_form(name, makes, tuple(left_out), limits, tuple(inside))
    return _same_option_form(name, makes, tuple(left_out), tuple(inside))


@functools.lru_cache(maxsize=256)
def _same_option_form(
    name: str, makes: Callable[..., Any], left_out: tuple[str, ...], inside: tuple[tuple[type, OneOf], ...]
) -> type[OptionForm] | None:
    """Return one model for what is in a schema twice, which would have two long names there."""
    return _option_form(name, makes, left_out, {}, inside)


def _option_form(
    name: str,
    makes: Callable[..., Any],
    left_out: tuple[str, ...],
    limits: Mapping[str, Any],
    inside: tuple[tuple[type, OneOf], ...],
) -> type[OptionForm] | None:
    described = _DESCRIBED | argument_docs(makes)
    fields: dict[str, Any] = {KIND: (Literal[name], Field(name, title="Kind"))}
    for argument in inspect.signature(makes).parameters.values():
        if argument.name in left_out or argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        is_needed = argument.default is argument.empty
        hint = _hint(makes, argument)
        chosen = next((one_of for cls, one_of in inside if cls in (hint, *get_args(hint))), None)
        if chosen is not None:
            text, title = described.get(argument.name), argument.name.replace("_", " ").capitalize()
            field = Field(None, title=title, description=text)
            fields[argument.name] = (Annotated[OptionForm, chosen] | None, field)
            continue
        kind = _json_kind(hint)
        if kind is None and is_needed:
            return None
        if kind is not None:
            details = {"description": described.get(argument.name), **limits.get(argument.name, {})}
            if get_origin(kind) is Annotated:  # of values
                details["description"] = "At least one value. As text: 16, 32 or relu, tanh or [8, 8], [16]."
            title = "Step" if argument.name == "q" else argument.name.replace("_", " ").capitalize()
            default = ... if is_needed else argument.default
            fields[argument.name] = (
                kind if is_needed else kind | None,
                Field(default, title=title, **details),
            )
    summary = (inspect.getdoc(makes) or "").partition("\n")[0]
    made = create_model(name, __base__=OptionForm, __doc__=summary, __module__=__name__, **fields)
    made.makes = makes
    return made


def _hint(makes: Callable[..., Any], argument: inspect.Parameter) -> Any:
    """Return an argument's type; `object`, which JSON cannot hold, where it is of a module that is not loaded."""
    function = vars(makes)["__init__"] if inspect.isclass(makes) and "__init__" in vars(makes) else makes
    names = vars(sys.modules[inspect.unwrap(function).__module__])
    holder = types.SimpleNamespace(__annotations__={argument.name: argument.annotation})
    try:
        return typing.get_type_hints(holder, names)[argument.name]
    except NameError:
        return object


def _json_kind(hint: Any) -> Any:
    """Return what of a type JSON can hold; None if it is nothing."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in map(_json_kind, get_args(hint)) if kind is not None]
        return Union[tuple(kinds)] if kinds else None  # noqa: UP007 - of a list
    if hint in _PLAIN or origin is Literal:
        return hint
    if origin in (list, Sequence, Iterable):
        return (
            list[dict[str, Any]]
            if get_origin(get_args(hint)[0]) is dict
            else Annotated[list[Any], _ValueList()]
        )
    return dict[str, Any] if origin in (dict, Mapping) else None


def argument_docs(makes: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring of a function or class says about each argument, in one line each.

    Example:
        >>> argument_docs(argument_docs)
        {'makes': 'Its docstring is in the style of Google.'}

    Args:
        makes: Its docstring is in the style of Google.
    """
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(makes) or "", re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE)
    texts = {name: " ".join(text.split()).removeprefix("Beyond Ray Tune: ") for name, text in entries}
    return {name: text[0].upper() + text[1:] for name, text in texts.items()}
