import unittest

from greeting import missing


class Greeting(unittest.TestCase):
    def test_a_namespace_that_asks_for_it_is_greeted_once(self):
        namespace = {"metadata": {"name": "home", "labels": {"greet": "world"}}}
        made = missing(namespace, [], {})
        self.assertEqual(made["data"], {"text": "Hello, world!"})
        self.assertIsNone(missing(namespace, [made], {}))
        self.assertEqual(missing(namespace, [made], {"greeting": "Hi"})["data"], {"text": "Hi, world!"})

    def test_a_namespace_on_its_way_out_is_left_alone(self):
        self.assertIsNone(missing({"metadata": {"name": "home", "deletionTimestamp": "now"}}, [], {}))
